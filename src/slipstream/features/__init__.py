"""What a model can eat: attributes and text of items and users, and what was true as of an event."""
