"""Weights from files, checked, named by a digest, put into modules."""
