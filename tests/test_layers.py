"""Imports go down only: the order of the rooms is the design."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ROOMS = [
    {"cli"},
    {"api"},
    {"pipeline"},
    {"doctor", "describe_passes"},
    {"report"},
    {"gating"},
    {"judging"},
    {"explaining"},
    {"measuring", "running", "inspecting"},
    {"exporting", "rewriting"},
    {"sources", "plan", "emulate", "layer_errors"},
    {"statistics"},
    {"probes"},
    {"runtimes", "data", "metrics", "compare", "invariants", "fusion"},
    {"registry"},
    {"graph_pass", "manifest"},
    {"formats"},
    {"recipe", "artifact", "references", "machine"},
    {"grammar"},
    {"workspace", "directory", "dims", "figures"},
    {"types"},
    {"errors"},
    {"installed"},
]
"""From the top down; rooms of one line do not import each other."""

LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
ALLOWED_FOR_PASSES = {"mlc.graph_pass", "mlc.fusion", "mlc.formats", "mlc.types"}


def room_of(path):
    """Return the room of a file in mlc/: its folder, or its name up to the first underscore's helper suffix."""
    name = path.relative_to(ROOT / "mlc").parts[0].removesuffix(".py")
    if name in LEVEL:
        return name
    owners = [room for room in LEVEL if name.startswith(f"{room}_")]
    return max(owners, key=len) if owners else None


def imported_modules(path):
    """Return every mlc module that a file imports, lazily too, but for type checking."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


FILES = sorted(path for path in (ROOT / "mlc").rglob("*.py") if path.name not in {"__init__.py", "__main__.py"})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    room = room_of(path)
    assert room is not None, f"{path.name} belongs to no room of the design"
    for module in imported_modules(path):
        assert module.split(".")[0] != "passes", "mlc never imports passes"
        if not module.startswith("mlc."):
            continue
        other = room_of(ROOT / "mlc" / f"{module.split('.')[1]}.py")
        assert other == room or LEVEL[other] > LEVEL[room], f"{room} imports {other}"


@pytest.mark.parametrize("path", sorted((ROOT / "passes").rglob("*.py")), ids=lambda path: path.name)
def test_passes_see_only_the_contract(path):
    for module in imported_modules(path):
        if module.split(".")[0] == "mlc":
            assert module in ALLOWED_FOR_PASSES, f"a pass imports {module}"


def test_every_room_exists():
    missing = [room for room in LEVEL if not list((ROOT / "mlc").glob(f"{room}*"))]
    assert missing == []
