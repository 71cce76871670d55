"""What is in a written model: counted from the file itself, with its weights left where they are."""

from mlc.inspecting.inspect import inspect_model
from mlc.inspecting.nouns import Facts, Inspection, Operator, Precision, Share, Stored, Uncounted

__all__ = ["Facts", "Inspection", "Operator", "Precision", "Share", "Stored", "Uncounted", "inspect_model"]
