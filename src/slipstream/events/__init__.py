"""What happened: events, the store that keeps them, and the roads by which they come in."""
