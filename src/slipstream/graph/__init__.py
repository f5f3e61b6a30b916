"""What things are and how they relate."""
