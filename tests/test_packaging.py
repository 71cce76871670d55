"""What the wheel holds, and what an install adds."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True, timeout=300)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_holds_two_packages_and_nothing_else(wheel):
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert top == {"mlc", "passes", f"mlc_toolchain-{PROJECT['version']}.dist-info"}


def test_the_wheel_is_typed_and_has_its_templates(wheel):
    names = set(wheel.namelist())
    assert {"mlc/py.typed", "passes/py.typed"} <= names
    in_tree = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "mlc").rglob("*") if path.suffix in {".py", ".j2", ".css"}
    }
    assert in_tree <= names


def test_every_entry_point_is_in_the_wheel(wheel):
    for name, value in PROJECT["entry-points"]["mlc.passes"].items():
        module = value.split(":")[0].replace(".", "/") + ".py"
        assert module in wheel.namelist(), f"{name} names {module}"


def test_the_pins_cover_every_dependency():
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    asked = {requirement.split(">=")[0] for requirement in PROJECT["dependencies"]}
    assert asked <= pinned


def test_torch_is_pinned_below_and_open_in_the_project():
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text()
    assert any(requirement.startswith("torch>=") and "==" not in requirement for requirement in PROJECT["dependencies"])
