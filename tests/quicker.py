"""What lets tests take less time, and changes nothing that they see."""

import functools
import gc
import sys
from typing import Any


def spare_time() -> None:
    """Call it when everything is imported: none of that is garbage, and torch.export does its preparations once.

    For each export it walks all operators 56 times, to put them where they already are, and fills the registry of their
    translations anew: together that takes longer than a small export itself.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    if "torch" not in sys.modules:
        return
    from torch._export import utils
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    operators: Any = utils
    registry: Any = ONNXRegistry
    operators._materialize_cpp_cia_ops = functools.cache(operators._materialize_cpp_cia_ops)
    registry.from_torchlib = staticmethod(functools.cache(registry.from_torchlib))
