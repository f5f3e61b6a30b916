"""How the world asks: the HTTP contract over one home folder. No training framework in this process."""
