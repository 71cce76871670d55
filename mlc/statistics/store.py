"""Statistics that are kept: by what computes a value, so that they serve every graph that computes it so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlc.data.arrays import BROKEN
from mlc.errors import DataError
from mlc.figures import counted
from mlc.statistics.by_axis import COLUMNS, ByAxis
from mlc.statistics.collected import DIGEST, CollectedStatistics
from mlc.statistics.observers import KINDS, Observer
from mlc.types import Need

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlc.types import Array

FILE = "statistics.npz"
"""The name under which an artifact's directory holds them."""


@dataclass
class Store:
    """Observers by the digest of what computes their value, and the names that the values had.

    ``samples`` are the digests of the samples that were seen, uint8 [samples, 16]; ``name`` is the file they come from,
    and ``added`` the digests of values that were collected beside what it holds.
    """

    observers: dict[str, Observer] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    samples: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, DIGEST), np.uint8))
    name: str = ""
    added: set[str] = field(default_factory=set)

    def add(self, statistics: CollectedStatistics, digests: Mapping[str, str]) -> None:
        """Keep what was collected on a graph with these digests by value name."""
        collected: dict[str, Observer] = {}
        for value, observer in statistics.observers.items():
            digest = digests[value]
            collected[digest] = observer.beside(collected[digest]) if digest in collected else observer
            self.names[digest] = value
        self.observers |= collected
        self.added |= collected.keys()
        self.samples = statistics.digests

    def missing(self, needs: Sequence[Need], digests: Mapping[str, str]) -> list[Need]:
        """Return the needs that are not met for a graph with these digests."""
        found = {need.value: self.observers.get(digests.get(need.value, "")) for need in needs}
        return [need for need in needs if (kept := found[need.value]) is None or not kept.holds(need.kind)]

    def to_collect(self, needs: Sequence[Need], digests: Mapping[str, str]) -> list[Need]:
        """Return what is to be collected: all needs of a value of which one is missing, and what is kept of it."""
        values = dict.fromkeys(need.value for need in self.missing(needs, digests))
        kept = {value: self.observers.get(digests.get(value, "")) for value in values}
        again = [Need(value, kind) for value, one in kept.items() for kind in KINDS if one and one.holds(kind)]
        return [*(need for need in needs if need.value in values), *again]

    def read(self, needs: Sequence[Need], digests: Mapping[str, str]) -> CollectedStatistics:
        """Return what is kept of the needed values."""
        kept = {need.value: self.observers[digests[need.value]] for need in needs}
        return CollectedStatistics(kept, len(self.samples), self.samples)

    def refuse_missing(self, missing: Sequence[Need], reader: str) -> None:
        """Raise DataError where ``reader`` needs what the file does not hold, with the reason."""
        if not missing:
            return
        again = "give what they were collected on too, with --calibrate, or other data in the place of --statistics"
        need = next((need for need in missing if need.kind == "moments"), missing[0])
        if need.kind == "moments":
            raise DataError(f"{reader} reads moments, which no file of statistics holds", again)
        if need.value not in self.names.values():
            raise DataError(
                f"the statistics {self.name} hold nothing of the value {need.value}, which {reader} reads: "
                "they were collected on another graph, or for another pass", again,
            )  # fmt: skip
        kept = [self.observers[digest] for digest, name in self.names.items() if name == need.value]
        if not any(observer.holds(need.kind) for observer in kept):
            wanting = f"the statistics {self.name} hold no {need.kind} of the value {need.value}, which {reader} reads"
            raise DataError(wanting, again)
        raise DataError(
            f"the statistics {self.name} were collected on another graph: the value {need.value} is computed otherwise "
            "there", again,
        )  # fmt: skip

    def refuse_other_sizes(self, columns: Mapping[str, int], digests: Mapping[str, str], reader: str) -> None:
        """Raise DataError where a value has another last axis than ``columns`` says: inputs count by name and type."""
        for value, size in columns.items():
            kept = self.observers.get(digests.get(value, ""))
            found = None if kept is None else kept.axes.get(COLUMNS)
            if found is not None and len(found.low) != size:
                raise DataError(
                    f"the statistics {self.name}, which {reader} reads, were collected on another graph: the value "
                    f"{value} has {len(found.low):,} columns there, and {size:,} here",
                    "give --calibrate in their place",
                )

    def described(self) -> str:
        """Return what the report says of them: how many samples and values, and whether all elements were counted."""
        counting = [observer for observer in self.observers.values() if observer.counts is not None]
        elements, seen = (sum(getattr(each, key) for each in counting) for key in ("elements", "counted"))
        parts = [counted(len(self.samples), "sample"), counted(len(self.observers), "value"), "exact extremes"]
        if counting:
            share = f"{seen / elements:.1%} of the elements, evenly spaced" if seen < elements else "all elements"
            parts.append(f"histograms of {share}")
        if self.name and self.added:
            parts.append(f"{counted(len(self.added), 'value')} collected anew")
        return ", ".join([self.name, *parts] if self.name else parts)

    def save(self, path: Path) -> None:
        """Write everything but moments as ``.npz``: the same statistics give the same bytes.

        Moments are as large as the squares of the widths, more than the model that they served to quantize.
        """
        arrays: dict[str, Array] = {"samples": self.samples}
        for digest, observer in self.observers.items():
            arrays[f"{digest}:name"] = np.frombuffer(self.names[digest].encode(), np.uint8)
            arrays[f"{digest}:range"] = np.array([observer.low, observer.high, observer.finite_low], np.float64)
            arrays[f"{digest}:seen"] = np.array([observer.elements, observer.low_sample], np.int64)
            if observer.counts is not None:
                arrays[f"{digest}:counts"] = observer.counts
            for axis, along in observer.axes.items():
                for part in ("low", "high", "total", "elements"):
                    arrays[f"{digest}:{axis}:{part}"] = np.asarray(getattr(along, part))
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> Store:
        """Read what ``save`` wrote, from the file or the artifact's directory that holds it. Raises DataError."""
        path = path / FILE if path.is_dir() else path
        groups: dict[str, dict[str, Array]] = {}
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                samples = arrays["samples"].reshape(-1, DIGEST)
                for key in arrays.files:
                    digest, _, part = key.partition(":")
                    if part:
                        groups.setdefault(digest, {})[part] = arrays[key]
            observers = {digest: _observer(group) for digest, group in groups.items()}
            names = {digest: group["name"].tobytes().decode() for digest, group in groups.items()}
        except FileNotFoundError as error:
            raise DataError(f"there are no statistics {path}", f"a run that calibrates writes {FILE}") from error
        except (*BROKEN, OSError, KeyError, TypeError) as error:
            raise DataError(f"{path} holds no statistics", "collect them again") from error
        return cls(observers, names, samples, path.as_posix())


def _observer(group: Mapping[str, Array]) -> Observer:
    low, high, finite_low = map(float, group["range"])
    elements, sample = map(int, group["seen"])
    axes = {}
    for axis in sorted({key.partition(":")[0] for key in group if ":" in key}):
        parts: dict[str, Any] = {part: group[f"{axis}:{part}"] for part in ("low", "high", "total", "elements")}
        axes[axis] = ByAxis(**parts | {"elements": int(parts["elements"])})
    return Observer(low, high, elements, sample, finite_low, group.get("counts"), axes)
