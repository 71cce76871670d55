"""Into ONNX: an Original becomes an Artifact, compared with the original at every size that was run."""

from mlc.exporting.checked import export

__all__ = ["export"]
