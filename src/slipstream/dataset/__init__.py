"""What we knew at one moment: ids, interactions as memory-mapped columns, and the boards cut from them."""
