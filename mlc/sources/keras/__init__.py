"""Keras 3 models on the torch backend."""
