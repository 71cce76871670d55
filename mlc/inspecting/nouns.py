"""What is found in a written model: plain data, which the report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlc.manifest import Manifest, Mismatch
from mlc.types import Sizes


@dataclass(frozen=True)
class Stored:
    """Tensors of one dtype that a file holds: how many, their elements, and their bytes."""

    dtype: str
    tensors: int
    elements: int
    bytes: int


@dataclass(frozen=True)
class Operator:
    """One kind of node: how many there are, subgraphs included, and the multiply-adds of those that were counted."""

    op: str
    domain: str
    nodes: int
    multiply_adds: int = 0


@dataclass(frozen=True)
class Uncounted:
    """A node whose multiply-adds are not known, by its name or first output, and why."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True)
class Precision:
    """What products are computed in, as far as the file says: ``int8``, ``int4 weights, float32``, ``float32``."""

    name: str
    nodes: int
    multiply_adds: int


@dataclass(frozen=True)
class Facts:
    """Everything that one model file says.

    ``inputs`` and ``outputs`` are written in the grammar of inputs. ``files`` has bytes by file name, ``opsets``
    versions by domain, ``graphs`` the number of subgraphs, ``functions`` nodes by local function. ``parameters`` counts
    the elements of weights, each once; ``weights`` all stored tensors. ``activations`` counts computed values by
    dtype. ``multiply_adds`` is what could be counted at ``sizes``; ``assumed`` names axes that nobody gives a size.
    """

    files: Mapping[str, int]
    producer: str
    metadata: Mapping[str, str]
    ir_version: int
    opsets: Mapping[str, int]
    minimum_onnxruntime: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: tuple[Operator, ...]
    graphs: int
    functions: Mapping[str, int]
    parameters: int
    weights: tuple[Stored, ...]
    activations: Mapping[str, int]
    sizes: Sizes
    assumed: tuple[str, ...]
    multiply_adds: int
    precisions: tuple[Precision, ...]
    uncounted: tuple[Uncounted, ...]


@dataclass(frozen=True)
class Share:
    """How many of a model's nodes a target's provider would run; ``problem`` says why nothing is known instead.

    ``others`` counts the nodes that other providers would run, by operator.
    """

    target: str
    provider: str = ""
    device: str = ""
    nodes: int = 0
    all_nodes: int = 0
    others: Mapping[str, int] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Inspection:
    """A model as it lies on disk.

    An artifact has its ``manifest`` and the files that are not as it says; ``unreadable`` says why an artifact's model
    that was changed has no ``facts``.
    """

    model: str
    facts: Facts | None
    manifest: Manifest | None = None
    mismatches: tuple[Mismatch, ...] = ()
    shares: tuple[Share, ...] = ()
    unreadable: str = ""
    notes: tuple[str, ...] = ()
