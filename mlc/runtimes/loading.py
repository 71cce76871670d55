"""How a written model is loaded by its runtime alone: lines of Python for the report, and session.json beside it."""

from __future__ import annotations

import itertools
import json
import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlc.types_asked import Target


def loading_lines(
    path: str, inputs: Iterable[str], target: Target, session_options: Mapping[str, str], *, software: bool = False
) -> str:
    """Return the lines that run a model on a target with its runtime alone; ``software`` allows a software device."""
    names = list(inputs)
    fed = ", ".join(f"{text(name)}: {variable}" for name, variable in zip(names, variables(names), strict=True))
    if target.runtime == "openvino":
        return "\n".join((*_openvino(path, target, session_options), f"outputs = model({{{fed}}})"))
    lines = _onnxruntime(path, target, session_options)
    if software:
        from mlc.runtimes.plugins import SOFTWARE_ADAPTER

        lines = ["import os", f'os.environ["{SOFTWARE_ADAPTER}"] = "1"', *lines]
    return "\n".join((*lines, f"outputs = session.run(None, {{{fed}}})"))


def session_record(target: Target, session_options: Mapping[str, str]) -> dict[str, Any]:
    """Return what session.json holds: the runtime, the provider, and every option that a model was measured with."""
    record: dict[str, Any] = {"runtime": target.runtime, "provider": target.provider}
    if target.device is not None:
        record["device"] = target.device
    if target.threads is not None:
        record["threads"] = target.threads
    options = dict(target.options)
    if target.runtime == "openvino":
        from mlc.runtimes.openvino_settings import THREADS, settings_of

        properties = settings_of(target).properties
        options = {key: value for key, value in properties.items() if key != THREADS or target.threads is None}
    else:
        from mlc.runtimes.providers import default_options, full_name

        options = {**default_options(full_name(target.provider)), **options}
    return {**record, "options": options, "session_options": dict(session_options)}


def _openvino(path: str, target: Target, session_options: Mapping[str, str]) -> Sequence[str]:
    from mlc.runtimes.openvino_settings import settings_of

    settings = settings_of(target)
    properties = _dict({**settings.properties, **session_options})
    return (
        "import openvino",
        f"model = openvino.Core().compile_model({text(path)}, {text(settings.device)}, {properties})",
    )


def _onnxruntime(path: str, target: Target, session_options: Mapping[str, str]) -> list[str]:
    from mlc.runtimes.nvidia import needs_nvidia
    from mlc.runtimes.providers import CPU, is_session_entry, provider_of

    provider = provider_of(target)
    entries = {**{key: value for key, value in target.options if is_session_entry(key)}, **session_options}
    lines = [f"options.add_session_config_entry({text(key)}, {text(value)})" for key, value in entries.items()]
    if target.threads is not None:
        lines.append(f"options.intra_op_num_threads = {target.threads}")
    imports = ["import onnxruntime"]
    if needs_nvidia(provider.name) and not provider.plugin:
        imports.append("onnxruntime.preload_dlls()")
    if provider.plugin:
        from mlc.runtimes.plugins import PACKAGE

        package = PACKAGE + provider.plugin
        imports.append(f"import {package}")
        lines += [
            f'onnxruntime.register_execution_provider_library("{provider.plugin}", {package}.get_library_path())',
            f'devices = [found for found in onnxruntime.get_ep_devices() if found.ep_name == "{provider.name}"]',
            f"options.add_provider_for_devices([devices[{provider.place}]], {_dict(provider.options)})",
        ]
    arguments = [text(path)]
    if lines:
        lines.insert(0, "options = onnxruntime.SessionOptions()")
        arguments.append("options")
    if not provider.plugin and provider.name != CPU:
        arguments.append(f'providers=[("{provider.name}", {_dict(provider.options)})]')
    return [*imports, *lines, f"session = onnxruntime.InferenceSession({', '.join(arguments)})"]


def _dict(values: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{text(key)}: {text(value)}" for key, value in values.items()) + "}"


def text(value: object) -> str:
    """Return a text as Python writes it, in double quotes."""
    return json.dumps(str(value), ensure_ascii=False)


def variables(inputs: Iterable[str]) -> list[str]:
    """Return a variable for each input, like its name: no keyword, and no two alike."""
    found: list[str] = []
    for name in inputs:
        wanted = re.sub(r"\W", "_", name)
        wanted = wanted if wanted.isidentifier() and not keyword.iskeyword(wanted) else f"input_{wanted}"
        number = itertools.count(2)
        free = wanted
        while free in found:
            free = f"{wanted}_{next(number)}"
        found.append(free)
    return found
