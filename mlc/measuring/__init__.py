"""How good and how fast: accuracy per sample, latency over a set of sessions in fresh processes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlc.measuring.nouns import Accuracy, Arithmetic, Candidate, Latency, OutputAgreement, Trial

if TYPE_CHECKING:
    from mlc.measuring.accuracy import measure_accuracy, measure_agreement
    from mlc.measuring.latency import bench, measure_load, measure_profile, time_original
    from mlc.measuring.peak import with_shares
    from mlc.measuring.trials import measure

__all__ = [
    "Accuracy",
    "Arithmetic",
    "Candidate",
    "Latency",
    "OutputAgreement",
    "Trial",
    "bench",
    "measure",
    "measure_accuracy",
    "measure_agreement",
    "measure_load",
    "measure_profile",
    "time_original",
    "with_shares",
]

_ROOMS = {
    "measure_accuracy": "accuracy", "measure_agreement": "accuracy", "bench": "latency", "measure_load": "latency",
    "measure_profile": "latency", "time_original": "latency", "measure": "trials",
    "with_shares": "peak",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load what measures when it is asked for: what only reads figures needs no runtime."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
