"""The README's commands work as they stand, in its order, from a fresh folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
QUIET = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
BLOCKS = re.findall(r"^```(console|python)\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def commands():
    """Return what a reader would type: each console line, and each Python block whole."""
    for language, text in BLOCKS:
        if language == "python":
            yield [sys.executable, "-c", text]
        else:
            yield from ([sys.executable, "-m", *shlex.split(line)] for line in text.splitlines() if line)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("readme")
    (place / "sample_models").symlink_to(ROOT / "sample_models")
    return place


def test_the_commands_of_the_readme_work(folder):
    ran = 0
    for command in commands():
        done = subprocess.run(command, cwd=folder, env=QUIET, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
        ran += 1
    assert ran >= 10
    first, again = (folder / "build" / name / "model.onnx" for name in ("int8", "again"))
    assert first.read_bytes() == again.read_bytes()


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
