"""The fastest artifact of a PyTorch model that keeps its accuracy on this machine, with proof."""
