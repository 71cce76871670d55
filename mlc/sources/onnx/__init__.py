"""ONNX files as sources: what they declare, and whether they may be read."""
