"""The passes that make each number format on a target."""

from __future__ import annotations

from mlc.grammar.formats import MIXED
from mlc.runtimes.cpu import multiplies_integers
from mlc.types import OptionValue, PassSpec, Target

ORDER = ("int8-static", "int8-dynamic", "int4-weights", "int8-weights", "fp16", "bf16")
"""In what order the passes of formats run, whatever a plan names first: each works on what those before it wrote."""

CPU_PROVIDERS = ("cpu", "cpuexecutionprovider")


def formats_for(asked: str, target: Target) -> tuple[str, ...]:
    """Return the passes that a format is made of on a target, in the order in which they choose their nodes.

    ``int8`` is what was measured to pay: on onnxruntime's CPU provider convolutions and what hangs on them static,
    other products and recurrent layers dynamic (``planner.py`` leaves those of which it does not pay); on OpenVINO,
    whose integer products need scales known beforehand, all static, but of the other products the weights alone where
    this CPU multiplies no 8-bit integers in one instruction; on GPUs, of whose providers none has such products,
    weights alone. ``int4-weights`` has 8 bits for the few nodes that lose too much in 4.
    """
    if asked == "int4-weights":
        return (asked, "int8-weights")
    if asked != MIXED:
        return (asked,)
    if on_openvino(target):
        by_weights = _device(target) == "cpu" and not multiplies_integers()
        return ("int8-static", "int8-weights") if by_weights else ("int8-static",)
    return ("int8-static", "int8-dynamic") if target.provider.lower() in CPU_PROVIDERS else ("int8-weights",)


def passes_for(asked: str, target: Target, *, has_data: bool) -> tuple[PassSpec, ...]:
    """Return the passes of a format with the options in which it has them; ``has_data`` where any can calibrate.

    ``int8`` corrects biases, which costs nothing at run time and brought 0.4 to 3.8 dB on each trained model with
    static layers that was tried, and scales the columns of what products read. ``int8-static`` and ``int8-dynamic``
    are the plain passes.
    """
    names = formats_for(asked, target)
    if asked != MIXED:
        return tuple(map(PassSpec, names))
    smooth: tuple[tuple[str, OptionValue], ...] = (("smooth", True),)
    options = {
        "int8-static": (("correct_bias", True), *(smooth if names == ("int8-static",) else ())),
        "int8-dynamic": smooth if has_data else (),
    }
    return tuple(PassSpec(name, options.get(name, ())) for name in names)


def reserve_for(asked: str, target: Target) -> tuple[str, ...]:
    """Return the passes that a format has for its outliers alone.

    Products of ``int8`` that lose too much with one scale for a row, or for all, keep their activations in blocks or in
    float, and only their weights lie in 8 bits: smaller and faster than float.
    """
    left = asked == MIXED and _device(target) in CPU_PROVIDERS and "int8-weights" not in formats_for(asked, target)
    return ("int8-weights",) if left else ()


def on_openvino(target: Target) -> bool:
    """Whether OpenVINO runs a target, itself or as a provider of onnxruntime."""
    return "openvino" in (target.runtime, target.provider.lower())


def _device(target: Target) -> str:
    """Return the device that OpenVINO is to run on, or the provider of another target."""
    return ((target.device or "cpu") if target.provider.lower() == "openvino" else target.provider).lower()
