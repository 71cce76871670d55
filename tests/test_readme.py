"""The README's commands work as they stand, in its order, from a fresh folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.typed import lay_out_samples, run_console, run_python

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(console|python)\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.usefixtures("quick")
def test_the_commands_of_the_readme_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lay_out_samples(tmp_path)
    ran = 0
    for language, text in BLOCKS:
        if language == "python":
            run_python(text)
        else:
            ran += run_console(text, capsys)
    assert ran >= 10
    first, again = (tmp_path / "build" / name / "model.onnx" for name in ("int8", "again"))
    assert first.read_bytes() == again.read_bytes()


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
