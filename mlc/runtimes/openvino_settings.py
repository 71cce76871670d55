"""How OpenVINO is told what a target asks for: the device, its properties, and float32 where nothing else is asked."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mlc.errors import TargetError, foreign
from mlc.grammar import nearest
from mlc.runtimes.quiet import quiet
from mlc.types_asked import Target

TELEMETRY = "openvino_telemetry"
"""The package through which ``import openvino`` reports itself to its makers, and writes an identity into the home."""

PRECISION, THREADS, PROFILING = "INFERENCE_PRECISION_HINT", "INFERENCE_NUM_THREADS", "PERF_COUNT"


@dataclass(frozen=True)
class Settings:
    """A device by OpenVINO's name, the properties that a model is compiled with, and how the report calls it all."""

    device: str
    properties: Mapping[str, str]
    text: str


@cache
def openvino() -> Any:
    """Return the package ``openvino``, imported so that it reports nothing. Raises TargetError where it is missing."""
    if find_spec("openvino") is None:
        raise TargetError("the runtime OpenVINO is not installed", "pip install 'mlc-toolchain[openvino]'")
    loaded = TELEMETRY in sys.modules
    if not loaded:
        sys.modules[TELEMETRY] = None  # type: ignore[assignment] # importing it fails, and openvino goes without
    try:
        with foreign("importing openvino", TargetError), quiet():
            return import_module("openvino")
    finally:
        if not loaded:
            del sys.modules[TELEMETRY]


@cache
def core() -> Any:
    """Return OpenVINO's core, one in a process: its plug-ins are loaded once."""
    with foreign("starting OpenVINO", TargetError):
        return openvino().Core()


@cache
def devices() -> tuple[str, ...]:
    """Return the devices that OpenVINO finds here, such as ``CPU`` and ``GPU.0``."""
    with foreign("asking OpenVINO for its devices", TargetError), quiet():
        return tuple(core().available_devices)


def settings_of(target: Target) -> Settings:
    """Return what a target asks of OpenVINO.

    Floats are computed in float32 unless the target says otherwise: left to itself OpenVINO takes bfloat16 or float16
    on processors that have it. Raises TargetError for a device, a property or a value that is not there.
    """
    device = _device(target)
    known = {str(name) for name, access in supported(device).items() if str(access) == "RW"}
    asked = dict(target.options)
    for key in asked:
        if key not in known:
            raise TargetError(f"OpenVINO's device {device} has no property {key!r} to set", nearest(key, sorted(known)))
    if target.threads is not None:
        if THREADS in asked:
            raise TargetError(f"the target gives both threads and {THREADS}", "give threads=N alone")
        if THREADS not in known:
            raise TargetError(f"OpenVINO's device {device} takes no number of threads", "leave threads=N out")
        asked[THREADS] = str(target.threads)
    defaults = {PRECISION: "f32"} if PRECISION in known else {}
    properties = {**defaults, **asked}
    return Settings(device, properties, _text(device, properties))


@cache
def supported(device: str) -> Mapping[str, str]:
    """Return the properties of a device, each with ``RO`` or ``RW``."""
    with foreign(f"asking OpenVINO's device {device} for its properties", TargetError):
        return dict(core().get_property(device, "SUPPORTED_PROPERTIES"))


def reason(error: BaseException) -> str:
    """Return what OpenVINO says without its own source's lines."""
    noise = ("Exception from ", "Check '", "FrontEnd API failed", "Summary:", "Model wasn't fully converted")
    lines = [line.strip(" -") for line in str(error).splitlines()]
    told = " ".join(line for line in lines if line and not line.startswith(noise))
    return told[:300] or "no message"


def _device(target: Target) -> str:
    """Return the device that ``openvino/provider:device`` means; ``cpu:native`` is the CPU."""
    number = None if target.device == "native" and target.provider.lower() == "cpu" else target.device
    name = target.provider.upper() + (f".{number.upper()}" if number is not None else "")
    found = devices()
    if name in found or (number is None and any(each.startswith(f"{name}.") for each in found)):
        return name
    there = ", ".join(f"openvino/{each.lower().replace('.', ':')}" for each in found)
    raise TargetError(f"OpenVINO finds no device {name} here", f"there is: {there or 'none'}")


def _text(device: str, properties: Mapping[str, str]) -> str:
    """Return the device in its maker's words, and what floats are computed in beside what OpenVINO would take."""
    with foreign(f"asking OpenVINO's device {device} for its name", TargetError):
        name = str(core().get_property(device, "FULL_DEVICE_NAME"))
        if PRECISION not in properties:
            return name
        own = str(core().get_property(device, PRECISION).get_type_name())
    asked = properties[PRECISION]
    return f"{name}, floats in {asked}" + (f", where OpenVINO's own choice is {own}" if own != asked else "")
