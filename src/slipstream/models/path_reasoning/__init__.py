"""The parts of the path reasoner: attention, legs, facts, learning of the weights."""
