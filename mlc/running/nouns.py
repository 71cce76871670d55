"""What running a model once gives: plain data, which the report shows."""

from __future__ import annotations

from dataclasses import dataclass

from mlc.runtimes.session import NodeRun


@dataclass(frozen=True)
class RanOutput:
    """One output: dtype (NumPy's name) and shape, smallest, mean and largest of its finite elements, its first ones.

    The three are None where there are no numbers to take them of. ``nan`` and ``infinite`` count elements.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    low: float | None
    mean: float | None
    high: float | None
    nan: int
    infinite: int
    first: tuple[float | str, ...]


@dataclass(frozen=True)
class Running:
    """One run: the model and the file of arrays as given, what came out, where the nodes ran, what is to be known.

    ``written`` is the file that holds the outputs; empty without one. ``device`` is empty where it is the CPU alone.
    """

    model: str
    arrays: str
    provider: str
    device: str
    nodes: int
    outputs: tuple[RanOutput, ...]
    fallbacks: tuple[NodeRun, ...] = ()
    notes: tuple[str, ...] = ()
    written: str = ""
