"""A profiled run of OpenVINO: which layers ran, in which precision, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc.errors import TargetError, foreign
from mlc.runtimes.openvino import open_session
from mlc.runtimes.operators import Kernel, operator_times, profiled_runs
from mlc.runtimes.session import Placement, Profile
from mlc.types_asked import Target

if TYPE_CHECKING:
    from mlc.types import Arrays

MICROSECOND = 1e-6


def profile_run(path: Path, inputs: Arrays, target: Target, options: Mapping[str, str] | None = None) -> Profile:
    """Run a model with OpenVINO's own counters on; times are medians over the runs after the first."""
    with open_session(path, target, options=options, profiled=True) as session:
        session.run(inputs)
        layers = session.layers()
        runs = []
        for _ in profiled_runs():
            session.run(inputs)
            with foreign("reading OpenVINO's profile", TargetError):
                runs.append([_kernel(told) for told in session.request.get_profiling_info() if _executed(told)])
        ran = [layers[name] for name, _ in runs[-1] if name in layers]
        placement = Placement(
            provider=session.provider,
            assigned=session.assignment(),
            ran=tuple(dict.fromkeys(ran)),
            copies=0,
            device=session.device(),
        )
    kernels = [
        [Kernel(layers[name].provider, layers[name].op, duration) for name, duration in run if name in layers]
        for run in runs
    ]
    return Profile(placement, operator_times(kernels))


def _executed(told: Any) -> bool:
    return str(told.status).endswith(".EXECUTED")


def _kernel(told: Any) -> tuple[str, float]:
    """Return a layer's name and its microseconds."""
    return str(told.node_name), told.real_time.total_seconds() / MICROSECOND
