"""Loops over the steps of a sequence, which a trace unrolls to the length that it sees, as loops of the graph."""
