"""How a model learns: packed batches, losses, and the one visible loop. Needs torch."""
