"""Imports and fills what every export needs, so that processes begun from this one find it; starts no thread."""

from __future__ import annotations

import functools

import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

from mlc.sources.silence import silent
from tests.architectures.families import build

torch.set_num_threads(1)
_fill = functools.cache(ONNXRegistry.from_torchlib)
ONNXRegistry.from_torchlib = staticmethod(_fill)  # type: ignore[method-assign]
with silent():
    _fill()
    build("bert")
