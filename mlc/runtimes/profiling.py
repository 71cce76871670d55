"""A profiled run of onnxruntime: where the nodes ran, what was copied between devices, where the time went."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mlc.errors import TargetError, foreign
from mlc.runtimes.onnxruntime import open_session
from mlc.runtimes.operators import Kernel, operator_times, profiled_runs
from mlc.runtimes.session import NodeRun, Placement, Profile
from mlc.types import Target

if TYPE_CHECKING:
    from mlc.types import Arrays

Event: TypeAlias = Mapping[str, Any]

KERNEL = "_kernel_time"


def profile_run(path: Path, inputs: Arrays, target: Target, options: Mapping[str, str] | None = None) -> Profile:
    """Run a model with the runtime's profiler on; times are medians over the runs after the first.

    Every profile has a folder of its own: the runtime names its files to the second.
    """
    with tempfile.TemporaryDirectory(prefix="mlc-profile-", ignore_cleanup_errors=True) as folder:
        with open_session(path, target, options=options, profile_prefix=Path(folder) / "profile") as session:
            session.run(inputs)
            for _ in profiled_runs():
                session.run(inputs)
            assigned = session.assignment()
            provider, device = session.provider, session.device()
            file = Path(session.raw.end_profiling())
        with foreign("reading the runtime's profile", TargetError):
            events = json.loads(file.read_text(encoding="utf-8"))
    runs = kernels_by_run(events)
    kernels = [[kernel_of(event) for event in run] for run in runs[1:]]
    return Profile(placed(provider, assigned, runs[-1], device), operator_times(kernels))


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
    """Return which node one kernel event is of."""
    args = event["args"]
    return NodeRun(str(args["provider"]), str(args["op_name"]), str(event["name"]).removesuffix(KERNEL))


def kernel_of(event: Event) -> Kernel:
    """Return what one kernel event took."""
    return Kernel(str(event["args"]["provider"]), str(event["args"]["op_name"]), float(event["dur"]))
