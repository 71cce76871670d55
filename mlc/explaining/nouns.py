"""What is told of a quantized model: plain data, which the report shows."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass

from mlc.figures import decibels, significant

SENSITIVE = 5
"""So many nodes are named at most as those that cost most."""

MOST_NOISE = 0.5
"""The nodes that cost most are the fewest that together make this share of the noise at the outputs."""


@dataclass(frozen=True)
class TensorError:
    """How far the numbers of one quantized tensor are from what they stand for, in what the quantized model computes.

    ``kind`` is activation or weight, ``dtype`` that of the codes, or of numbers of 16 bits, which are looked at in what
    the float model computes. ``sqnr`` is in dB; ``clipped`` is the share of the
    elements outside of what the codes can mean, by more than rounding. ``low`` and ``high`` were seen, ``lowest`` and
    ``highest`` have a code (of several scales, in any of them). ``readers`` are the nodes that read it, by first
    output, and ``output`` what the worst of them, alone quantized, leaves of the outputs, in dB; None where that is
    not known.
    """

    value: str
    kind: str
    dtype: str
    sqnr: float
    clipped: float
    low: float
    high: float
    lowest: float
    highest: float
    readers: tuple[str, ...] = ()
    output: float | None = None

    @property
    def used(self) -> float:
        """The share of the codes' range that the numbers seen take."""
        span = self.highest - self.lowest
        return (min(self.high, self.highest) - max(self.low, self.lowest)) / span if span > 0 else math.nan


@dataclass(frozen=True)
class NodeTime:
    """Milliseconds of one run of a node alone, the medians: in float, and quantized with what it quantizes itself."""

    plain: float
    quantized: float

    def __str__(self) -> str:
        """Return both, as a sentence has them."""
        return f"{significant(self.plain)} ms in float, {significant(self.quantized)} ms quantized"


@dataclass(frozen=True)
class NodeCost:
    """What one node costs, quantized alone: the SQNR in dB of the output that loses most, and its name.

    ``keep`` are the nodes that have to stay float for the loss to go, if not this alone: codes that it reads are made
    all the same by an integer node before it. ``time`` is None where it was not timed.
    """

    node: str
    op: str
    sqnr: float
    output: str
    keep: tuple[str, ...] = ()
    time: NodeTime | None = None

    @property
    def noise(self) -> float:
        """The noise over the signal, of powers."""
        return 10 ** (-self.sqnr / 10)

    def __str__(self) -> str:
        """Return what it costs, as a sentence has it."""
        lost = "nothing is lost" if self.sqnr == math.inf else f"it leaves {self.output} at {decibels(self.sqnr)}"
        return f"alone {lost}" if self.time is None else f"alone {lost}; {self.time}"


@dataclass(frozen=True)
class ProductShare:
    """The multiply-adds of one operator of the graph that the runtime really runs, and whether bytes are multiplied."""

    op: str
    nodes: int
    multiply_adds: int
    integer: bool


@dataclass(frozen=True)
class Between:
    """A float operator between a dequantizer and a quantizer, in the graph that the runtime really runs."""

    node: str
    op: str


@dataclass(frozen=True)
class IntegerShare:
    """What the runtime's own optimization made of the products; ``uncounted`` nodes have an unknown number.

    ``branches`` says that there are some, each counted as if it were taken.
    """

    products: tuple[ProductShare, ...] = ()
    between: tuple[Between, ...] = ()
    uncounted: int = 0
    branches: bool = False

    @property
    def integer(self) -> int:
        """The multiply-adds of bytes."""
        return sum(each.multiply_adds for each in self.products if each.integer)

    @property
    def total(self) -> int:
        """All multiply-adds that were counted."""
        return sum(each.multiply_adds for each in self.products)


@dataclass(frozen=True)
class Inside:
    """A node of a branch or of the body of a loop that was converted: none of its values is seen."""

    node: str
    op: str
    format: str


@dataclass(frozen=True)
class Kept:
    """A node that gives float32 where others compute in float16, and why, if anything says so."""

    node: str
    op: str
    reason: str = ""


@dataclass(frozen=True)
class Explanation:
    """Where a quantized model loses, and what of it runs on integers; ``samples`` were run.

    ``nodes`` are in the order of the graph; others were too many to be tried alone, and ``grouped`` is the noise over
    the signal that they make in groups. ``inside`` are those of branches and loops, of which no value is seen, and no
    cost where no sample took them; ``kept`` are those that stay float32 in a model that computes in float16.
    """

    samples: int = 0
    tensors: tuple[TensorError, ...] = ()
    nodes: tuple[NodeCost, ...] = ()
    arithmetic: IntegerShare | None = None
    notes: tuple[str, ...] = ()
    inside: tuple[Inside, ...] = ()
    kept: tuple[Kept, ...] = ()
    grouped: float = 0.0

    @property
    def noise(self) -> float:
        """The noise over the signal that all nodes make at the outputs, as if their errors were independent."""
        return sum(node.noise for node in self.nodes) + self.grouped

    @property
    def sensitive(self) -> tuple[NodeCost, ...]:
        """The nodes that cost most, the worst first."""
        ordered = sorted((node for node in self.nodes if node.sqnr < math.inf), key=lambda node: node.sqnr)
        told, found = 0.0, list[NodeCost]()
        for node in ordered[:SENSITIVE]:
            found.append(node)
            told += node.noise
            if told >= MOST_NOISE * self.noise:
                break
        return tuple(found)

    @property
    def keep_float(self) -> str:
        """The options that keep them float, as a shell takes them."""
        names = dict.fromkeys(name for node in self.sensitive for name in node.keep or (node.node,))
        return " ".join(f"--keep-float {shlex.quote(name)}" for name in names)
