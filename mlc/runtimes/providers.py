"""Execution providers by name: what there is, what a short name means, how a session is told to use one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime

from mlc.errors import TargetError
from mlc.runtimes.library_text import END, holds
from mlc.runtimes.nvidia import defaults
from mlc.runtimes.plugins import check_options, kind_of_device, offered, place_of, plugin_name, plugins
from mlc.runtimes.session import SOFTWARE
from mlc.types import Target

CPU = "CPUExecutionProvider"
SUFFIX = "ExecutionProvider"

ALIASES = {"directml": "dml", "trt": "tensorrt"}
"""Names in use that are not the start of onnxruntime's own."""

FOR_GPUS = ("WebGpu", "Dml", "CUDA", "Tensorrt", "NvTensorRTRTX", "MIGraphX")
"""How the names of providers begin that are made for GPUs."""

INSTALLED_BY = {
    "coreml": "it is in onnxruntime for macOS",
    "cuda": "onnxruntime-gpu in the place of onnxruntime has it",
    "dml": "onnxruntime-directml in the place of onnxruntime has it, on Windows",
    "openvino": "pip install 'mlc-toolchain[openvino]'",
    "qnn": "onnxruntime-qnn in the place of onnxruntime has it",
    "tensorrt": "onnxruntime-gpu in the place of onnxruntime has it",
    "webgpu": "pip install 'mlc-toolchain[webgpu]'",
}
"""Where a provider comes from that is not here."""


@dataclass(frozen=True)
class Provider:
    """A provider chosen for a session: its full name and its own options.

    A plug-in has its short name, and the device that is to be used with its place among those that it offers.
    """

    name: str
    options: Mapping[str, str]
    plugin: str = ""
    device: Any = None
    place: int = 0


def _short(provider: str) -> str:
    short = provider.removesuffix(SUFFIX).lower()
    return ALIASES.get(short, short)


@cache
def known() -> dict[str, str]:
    """Return every provider name that this onnxruntime knows, short lower-case name to full name."""
    return {_short(name): name for name in onnxruntime.get_all_providers()}


def available() -> tuple[str, ...]:
    """Return the short names of the providers that are built in or installed as a plug-in; no more is known of them."""
    return tuple(sorted({*map(_short, built_in()), *plugins()}))


@cache
def built_in() -> tuple[str, ...]:
    """Return the full names of the providers in this build; asked once, since plug-ins join them when registered."""
    return tuple(onnxruntime.get_available_providers())


def full_name(provider: str) -> str:
    """Return onnxruntime's name of a provider that is present here.

    Raises TargetError that lists what there is for a name that is unknown or not present.
    """
    short = _short(provider)
    if known().get(short) in built_in():  # without a look at what is installed: loading is timed
        return known()[short]
    present = available()
    if short in present:
        return known()[short] if short in known() else plugin_name(short)
    if short not in known():
        close = difflib.get_close_matches(short, known(), n=2, cutoff=0.6)
        raise TargetError(
            f"no execution provider is called {provider!r}",
            f"did you mean {' or '.join(close)}?" if close else f"this machine has: {', '.join(present)}",
        )
    raise TargetError(
        f"this onnxruntime has no provider {provider}; it has: {', '.join(present)}",
        INSTALLED_BY.get(short, f"install a build or a plug-in (onnxruntime-ep-{short}) that has it"),
    )


def provider_of(target: Target) -> Provider:
    """Return the provider that a target asks for, with its device and options.

    Target options with a dot in their name are entries of the session, and not looked at here. Raises TargetError for a
    provider that is not present, offers no device, or has not such an option.
    """
    name = full_name(target.provider)
    options = {key: value for key, value in target.options if not is_session_entry(key)}
    if name == CPU:
        if options:
            raise TargetError(f"the provider cpu has no option {next(iter(options))!r}", "leave it out of the target")
        if target.device not in (None, "native"):
            raise TargetError(f"the provider cpu has no device {target.device!r}", "write `cpu` or `cpu:native`")
        return Provider(name, {})
    if name in built_in():
        if target.device is not None:
            options["device_type" if name.startswith("OpenVINO") else "device_id"] = target.device
        return Provider(name, {**default_options(name), **options})
    short = next(plugin for plugin in plugins() if plugin in (_short(name), _short(target.provider)))
    devices = offered(short, name)
    place = place_of(short, devices, target.device)
    check_options(short, name, options)
    return Provider(name, options, short, devices[place], place)


def default_options(name: str) -> dict[str, str]:
    """Return the options that a provider of this build is given where a target says nothing of them."""
    return defaults(name) if name in built_in() else {}


def is_session_entry(key: str) -> bool:
    """Whether an option is one of the session (``session.disable_prepacking``) and not one of the provider."""
    return "." in key


def check_session_entry(key: str) -> None:
    """Raise TargetError for a session option that this onnxruntime never heard of: it would ignore it in silence.

    It has no list of them, but its library must hold their names.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as library

    folder = Path(library.__file__).parent
    files = sorted({Path(library.__file__), *folder.glob("onnxruntime.dll"), *folder.glob("libonnxruntime.*")})
    if not holds(tuple(files), key.encode() + END):
        raise TargetError(
            f"onnxruntime {onnxruntime.__version__} knows no session option {key!r}", "check the spelling"
        )


def device_text(name: str, found: Any) -> str:
    """Return a provider's device in its maker's words.

    A provider made for GPUs that was given the CPU runs on a software device, and is called that.
    """
    kind = kind_of_device(found)
    told = str(dict(found.device.metadata).get("Description") or found.device.vendor)
    if kind == "CPU" and name.startswith(FOR_GPUS):
        from mlc.runtimes.vulkan import software_adapter

        return f"{SOFTWARE} on the CPU ({software_adapter() or told})"
    return f"{kind} {told}"
