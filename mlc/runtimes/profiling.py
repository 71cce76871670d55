"""A profiled run: where the nodes ran, what was copied between devices, where the time went."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

from mlc.errors import TargetError, foreign
from mlc.runtimes.onnxruntime import OnnxRuntimeSession, open_session
from mlc.runtimes.providers import CPU
from mlc.runtimes.session import NodeRun, OperatorTime, Placement, Profile
from mlc.types import Target

if TYPE_CHECKING:
    from mlc.types import Arrays

Event: TypeAlias = Mapping[str, Any]

RUNS = 25
"""Profiled runs after the first, which is left out: it allocates."""

FOR_GPUS = ("WebGpu", "Dml", "CUDA", "Tensorrt", "NvTensorRTRTX", "MIGraphX")
"""How the names of providers begin that are made for GPUs."""

KERNEL = "_kernel_time"


def profile_run(path: Path, inputs: Arrays, target: Target, options: Mapping[str, str] | None = None) -> Profile:
    """Run a model with the runtime's profiler on; times are medians over the runs after the first.

    Every profile has a folder of its own: the runtime names its files to the second.
    """
    with tempfile.TemporaryDirectory(prefix="mlc-profile-") as folder:
        with open_session(path, target, options=options, profile_prefix=Path(folder) / "profile") as session:
            for _ in range(1 + RUNS):
                session.run(inputs)
            assigned = session.assignment()
            provider, device = session.provider, device_name(session)
            file = Path(session.raw.end_profiling())
        with foreign("reading the runtime's profile", TargetError):
            events = json.loads(file.read_text(encoding="utf-8"))
    runs = kernels_by_run(events)
    return Profile(placed(provider, assigned, runs[-1], device), operator_times(runs[1:]))


def placed(provider: str, assigned: Sequence[NodeRun], last_run: Iterable[Event], device: str = "") -> Placement:
    """Return where the nodes went: what was assigned, what ran in one run, what was copied, what fell back."""
    kernels = list(last_run)
    return Placement(
        provider=provider,
        assigned=tuple(assigned),
        ran=tuple(dict.fromkeys(node_run(event) for event in kernels)),
        copies=sum(str(event["args"]["op_name"]).startswith("Memcpy") for event in kernels),
        fallbacks=tuple(node for node in assigned if node.provider != provider),
        device=device,
    )


def kernels_by_run(events: Iterable[Event]) -> list[list[Event]]:
    """Return the kernel events of each run, in order of start."""
    runs = [event for event in events if event.get("cat") == "Session" and event.get("name") == "model_run"]
    kernels = [event for event in events if event.get("cat") == "Node" and str(event["name"]).endswith(KERNEL)]
    kernels.sort(key=lambda event: event["ts"])
    spans = sorted((run["ts"], run["ts"] + run["dur"]) for run in runs)
    return [[kernel for kernel in kernels if start <= kernel["ts"] <= end] for start, end in spans]


def node_run(event: Event) -> NodeRun:
    """Return what one kernel event says."""
    args = event["args"]
    return NodeRun(str(args["provider"]), str(args["op_name"]), str(event["name"]).removesuffix(KERNEL))


def operator_times(runs: Iterable[Iterable[Event]]) -> tuple[OperatorTime, ...]:
    """Return count and time of each kind of operator in one run, the slowest first.

    Both are medians over the runs: one interruption by another process would outweigh all of them in a mean.
    """
    every = list(runs)
    durations: dict[tuple[str, str], list[list[float]]] = defaultdict(lambda: [[] for _ in every])
    for index, events in enumerate(every):
        for event in events:
            kind = (str(event["args"]["provider"]), str(event["args"]["op_name"]))
            durations[kind][index].append(float(event["dur"]))
    operators = [
        OperatorTime(provider, op, round(median(map(len, by_run))), float(median(map(sum, by_run))))
        for (provider, op), by_run in durations.items()
    ]
    return tuple(sorted(operators, key=lambda operator: -operator.microseconds))


def device_name(session: OnnxRuntimeSession) -> str:
    """Return the device that a provider other than the CPU's runs on, in the maker's words; empty where unknown.

    A provider made for GPUs that was given the CPU runs on a software device, and is called that.
    """
    if session.provider == CPU:
        return ""
    for found in session.raw.get_input_epdevices():
        if found is None or found.ep_name != session.provider:
            continue
        told = dict(found.device.metadata)
        name = str(told.get("Description") or found.device.vendor)
        kind = str(found.device.type).rsplit(".", 1)[-1]
        software = kind == "CPU" and session.provider.startswith(FOR_GPUS)
        return f"software device on the CPU ({name})" if software else f"{kind} {name}"
    return ""
