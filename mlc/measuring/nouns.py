"""The nouns of measuring: plain data, each figure with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mlc.runtimes.session import Placement, Profile
from mlc.types import Interval, Sizes

if TYPE_CHECKING:
    import numpy as np

    from mlc.types import Arrays


class Runs(Protocol):
    """What the original can do: run arrays by input name."""

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Return arrays by output name."""


class Known(Protocol):
    """An answer of the original that was kept."""

    @property
    def inputs(self) -> Arrays:
        """Arrays by input name."""

    @property
    def outputs(self) -> Arrays:
        """Arrays by output name."""


@dataclass(frozen=True)
class Candidate:
    """A written model to be measured: a name that the report shows, its file and the session options it ships with.

    ``judged`` is a file whose outputs are compared beside its own, where the target computes the model more exactly
    than others do: the figures are those of the one that agrees less.
    """

    name: str
    path: Path
    session_options: Mapping[str, str] = field(default_factory=dict)
    judged: Path | None = None


@dataclass(frozen=True)
class OutputAgreement:
    """How one output agrees with the original's over the evaluation data (or the probe inputs without data).

    ``sqnr`` in dB (inf where equal), ``cosine`` the mean over samples, ``top1`` the share of samples with the same
    argmax along the last axis (None where that has no meaning), ``largest`` the largest error over the rms (inf where
    the shapes differ). ``nonfinite`` counts elements that are NaN or Inf where the original's are finite; they are in
    no other figure but ``largest``. ``apart`` are the places in the data of the samples below 10 dB by themselves,
    which the ratio of all may hide.
    """

    output: str
    sqnr: float
    cosine: float
    top1: float | None
    largest: float
    nonfinite: int = 0
    apart: tuple[int, ...] = ()


@dataclass(frozen=True)
class Accuracy:
    """The user's metric on the evaluation data; drops are positive when it got worse, whatever the metric's direction.

    The drop of a metric without a finite best value (sqnr) is NaN. ``evaluated`` is a digest of the samples and
    answers: what two accuracies have to share before they compare.
    """

    metric: str
    higher_is_better: bool
    samples: int
    value: Interval
    original: float
    drop: Interval
    evaluated: str = ""


@dataclass(frozen=True)
class Arithmetic:
    """How near a model comes to what the machine can compute.

    ``operations`` are the multiplications and additions of one run, ``peak`` those that one large float32 product of
    matrices reached in a second on the same target, ``share`` the model's own, at its p50, over that. What computes in
    fewer bits may be above 1. ``threads`` is None where the runtime chooses.
    """

    operations: int
    share: float
    peak: float
    threads: int | None = None


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one run at ``sizes``, and how it compares with the baseline.

    ``speedup`` is the paired ratio baseline / this (above 1 is faster), its interval bootstrapped over processes first,
    rounds second; the baseline's own is the ratio of its two copies. ``ratios`` keeps every round's ratio, by process.
    ``default_ms`` is the p50 with the runtime's default settings, alone. ``noise`` is the A/A interval of the set that
    it was measured in, ``arithmetic`` None where some of the model's is not known.
    """

    sizes: Sizes
    p50: float
    p90: float
    p99: float
    speedup: Interval
    noise: Interval
    ratios: tuple[tuple[float, ...], ...] = ()
    default_ms: float | None = None
    arithmetic: Arithmetic | None = None


@dataclass(frozen=True)
class Trial:
    """One candidate, measured; a figure that was not measured is None.

    ``peak_memory_mb`` is that of a fresh process that loads the model and runs it once, in MB of 10**6 bytes, the
    interpreter and the runtime included.
    """

    candidate: Candidate
    agreement: tuple[OutputAgreement, ...] = ()
    accuracy: Accuracy | None = None
    latency: Latency | None = None
    load_seconds: float | None = None
    peak_memory_mb: float | None = None
    size_bytes: int = 0
    profile: Profile | None = None
    notes: tuple[str, ...] = ()

    @property
    def placement(self) -> Placement | None:
        """Where the nodes ran, from the profile."""
        return self.profile.placement if self.profile else None
