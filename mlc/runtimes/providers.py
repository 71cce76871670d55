"""Execution providers by name: what there is, what a short name means, how a session is told to use one."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime

from mlc.errors import TargetError, foreign
from mlc.types import Target

CPU = "CPUExecutionProvider"
SUFFIX = "ExecutionProvider"

ALIASES = {"directml": "dml", "trt": "tensorrt"}
"""Names in use that are not the start of onnxruntime's own."""

PLUGIN_PACKAGE = "onnxruntime_ep_"
"""Plug-in providers are packages of this prefix with ``get_library_path()``."""


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


@cache
def plugins() -> tuple[str, ...]:
    """Return the short names of the installed plug-in providers."""
    names = [module.name for module in pkgutil.iter_modules()]
    return tuple(name.removeprefix(PLUGIN_PACKAGE) for name in names if name.startswith(PLUGIN_PACKAGE))


def full_name(provider: str) -> str:
    """Return onnxruntime's name of a provider that is present here.

    Raises TargetError that lists what there is for a name that is unknown or not present.
    """
    short = _short(provider)
    present = available()
    if short in present:
        return known()[short] if short in known() else _plugin_name(short)
    if short not in known():
        close = difflib.get_close_matches(short, known(), n=2, cutoff=0.6)
        raise TargetError(
            f"no execution provider is called {provider!r}",
            f"did you mean {' or '.join(close)}?" if close else f"this machine has: {', '.join(present)}",
        )
    raise TargetError(
        f"this onnxruntime has no provider {provider}; it has: {', '.join(present)}",
        f"install a build or a plug-in (onnxruntime-ep-{short}) that has it, or choose another target",
    )


def use_provider(options: Any, target: Target) -> tuple[str, list[tuple[str, dict[str, str]]]]:
    """Tell the session options which provider to use; return its full name and the session's ``providers`` argument.

    Target options with a dot in their name are entries of the session; the others go to the provider. Raises
    TargetError for a provider that is not present, offers no device, or takes no options.
    """
    name = full_name(target.provider)
    settings = {key: value for key, value in target.options if not is_session_entry(key)}
    if name == CPU:
        if settings:
            raise TargetError(f"the provider cpu has no option {next(iter(settings))!r}", "leave it out of the target")
        if target.device not in (None, "native"):
            raise TargetError(f"the provider cpu has no device {target.device!r}", "write `cpu` or `cpu:native`")
        return name, [(CPU, {})]
    if name in built_in():
        if target.device is not None:
            settings["device_type" if name.startswith("OpenVINO") else "device_id"] = target.device
        return name, [(name, settings)]
    _use_plugin(options, name, target, settings)
    return name, []


def is_session_entry(key: str) -> bool:
    """Whether an option is one of the session (``session.disable_prepacking``) and not one of the provider."""
    return "." in key


def check_session_entry(key: str) -> None:
    """Raise TargetError for a session option that this onnxruntime never heard of: it would ignore it in silence."""
    if not _library_holds(key.encode()):
        raise TargetError(
            f"onnxruntime {onnxruntime.__version__} knows no session option {key!r}", "check the spelling"
        )


@cache
def _library_holds(text: bytes) -> bool:
    """Whether the runtime's library holds a text: it has no list of its session options, but it must hold their names.

    Read in pieces, since the peak of the process's memory is a figure that is measured.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as library

    folder = Path(library.__file__).parent
    for path in sorted({Path(library.__file__), *folder.glob("onnxruntime.dll"), *folder.glob("libonnxruntime.*")}):
        with path.open("rb") as file:
            before = b""
            while piece := file.read(1 << 20):
                if text in before + piece:
                    return True
                before = piece[-len(text) :]
    return False


@cache
def _register(short: str) -> None:
    """Register an installed plug-in with the runtime, once in a process."""
    with foreign(f"registering the provider {short}", TargetError):
        package = importlib.import_module(PLUGIN_PACKAGE + short)
        onnxruntime.register_execution_provider_library(short, package.get_library_path())


def _plugin_name(short: str) -> str:
    """The full name of a plug-in provider that the runtime itself does not list."""
    with foreign(f"the plug-in {PLUGIN_PACKAGE}{short}", TargetError):
        return str(importlib.import_module(PLUGIN_PACKAGE + short).get_ep_name())


def _use_plugin(options: Any, name: str, target: Target, settings: dict[str, str]) -> None:
    short = next(plugin for plugin in plugins() if plugin in (_short(name), _short(target.provider)))
    _register(short)
    devices = [found for found in onnxruntime.get_ep_devices() if found.ep_name == name]
    if not devices:
        message = f"the provider {short} is installed but offers no device here; there are: {', '.join(available())}"
        raise TargetError(message, "`mlc doctor` shows which providers create a session")
    options.add_provider_for_devices(_picked(short, devices, target.device), settings)


def _picked(short: str, devices: Sequence[Any], device: str | None) -> list[Any]:
    """The device asked for, by its number or its kind (``cpu``, ``gpu``, ``npu``); the first without one."""
    if device is None:
        return [devices[0]]
    kinds = [str(found.device.type).rsplit(".", 1)[-1].lower() for found in devices]
    for index, kind in enumerate(kinds):
        if device.lower() in (str(index), kind):
            return [devices[index]]
    offered = ", ".join(f"{index} ({kind})" for index, kind in enumerate(kinds))
    raise TargetError(f"the provider {short} has no device {device!r}; it offers: {offered}", "choose one of them")
