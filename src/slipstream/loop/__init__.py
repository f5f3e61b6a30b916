"""How it stays good: the steps of the loop over one home folder, and the demo that walks them all."""
