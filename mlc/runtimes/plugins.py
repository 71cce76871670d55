"""Plug-in providers of onnxruntime: packages of one prefix, used through the devices that they offer."""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime

from mlc.errors import TargetError, foreign
from mlc.runtimes.library_text import END, holds

PACKAGE = "onnxruntime_ep_"
"""Plug-in providers are packages of this prefix with ``get_library_path()``."""

SOFTWARE_ADAPTER = "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER"
"""Lets the webgpu provider use a software device where there is no GPU; read when it is registered.

mlc sets it, since the report says what the device was; a user who sets it to 0 is told that there is no device.
"""

INSTEAD = {
    "openvino": "OpenVINO's own runtime takes more processors: --target openvino/cpu",
    "webgpu": f"there is no GPU, and a software device is not allowed: {SOFTWARE_ADAPTER} is set",
}
"""What may be done about a plug-in that offers no device."""

DOCTOR = "`mlc doctor` shows which providers create a session"


@cache
def plugins() -> tuple[str, ...]:
    """Return the short names of the installed plug-in providers."""
    names = [module.name for module in pkgutil.iter_modules()]
    return tuple(name.removeprefix(PACKAGE) for name in names if name.startswith(PACKAGE))


def plugin_name(short: str) -> str:
    """Return the full name of a plug-in provider that the runtime itself does not list."""
    with foreign(f"the plug-in {PACKAGE}{short}", TargetError):
        return str(importlib.import_module(PACKAGE + short).get_ep_name())


def offered(short: str, name: str) -> list[Any]:
    """Register a plug-in and return the devices that it offers. Raises TargetError where there is none."""
    _register(short)
    devices = [found for found in onnxruntime.get_ep_devices() if found.ep_name == name]
    if not devices:
        raise TargetError(f"the provider {short} is installed but offers no device here", INSTEAD.get(short, DOCTOR))
    return devices


def place_of(short: str, devices: Sequence[Any], device: str | None) -> int:
    """Return which device is asked for by its number or its kind (``cpu``, ``gpu``, ``npu``), the first without one."""
    if device is None:
        return 0
    kinds = [kind_of_device(found) for found in devices]
    for index, kind in enumerate(kinds):
        if device.lower() in (str(index), kind.lower()):
            return index
    there = ", ".join(f"{index} ({kind.lower()})" for index, kind in enumerate(kinds))
    raise TargetError(f"the provider {short} has no device {device!r}; it offers: {there}", "choose one of them")


def kind_of_device(found: Any) -> str:
    """Return ``CPU``, ``GPU`` or ``NPU``."""
    return str(found.device.type).rsplit(".", 1)[-1]


def check_options(short: str, name: str, options: Iterable[str]) -> None:
    """Raise TargetError for an option that a plug-in's library never heard of: some ignore it in silence."""
    library = Path(_package(short).get_library_path())
    for key in options:
        qualified = f"ep.{name.lower()}.{key}".encode() + END
        if not (holds((library,), qualified) or holds((library,), END + key.encode() + END)):
            raise TargetError(f"the provider {short} has no option {key!r}", "check the spelling")


@cache
def _register(short: str) -> None:
    """Register an installed plug-in with the runtime, once in a process."""
    os.environ.setdefault(SOFTWARE_ADAPTER, "1")
    with foreign(f"registering the provider {short}", TargetError):
        onnxruntime.register_execution_provider_library(short, _package(short).get_library_path())


def _package(short: str) -> Any:
    return importlib.import_module(PACKAGE + short)
