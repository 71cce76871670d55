"""The code in docs/ works as it stands, page by page, in a fresh folder; what is made from the code is up to date."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from mlc.describe_passes import reference
from mlc.graph_pass import Context
from mlc.registry import available
from mlc.types import Capabilities
from tests.typed import lay_out_samples, run_console, run_python

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = ["quick-start", "recipe-book", "python-api", "providers"]
BLOCK = re.compile(r"(?:Save as `([^`]+)`:\n\n)?^```(console|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)

BEFORE = """
<ir_version: 9, opset_import: ["" : 20]>
g (float[2,3] x, float[2,3] y) => (float[2,3] z) {
    r = Reciprocal(y)
    z = Mul(x, r)
}
"""


@pytest.mark.usefixtures("quick")
@pytest.mark.needs_onnxruntime
@pytest.mark.parametrize("page", PAGES)
def test_the_page_works_from_top_to_bottom(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lay_out_samples(tmp_path)
    blocks = BLOCK.findall((DOCS / f"{page}.md").read_text())
    assert blocks
    for name, language, text in blocks:
        if name:
            Path(name).write_text(text)
        elif language == "python":
            run_python(text)
        else:
            run_console(text, capsys)


def test_the_pass_reference_is_what_the_registry_says(request):
    ours = {
        name for name, point in available().items() if point.dist is not None and point.dist.name == "mlc-toolchain"
    }
    if set(available()) != ours:
        pytest.skip(f"passes of others are installed: {sorted(set(available()) - ours)}")
    page = DOCS / "passes.md"
    if request.config.getoption("--update-golden"):
        page.write_text(reference())
    assert page.read_text() == reference()


def test_every_page_is_in_the_index():
    index = (DOCS / "index.md").read_text()
    assert [page.name for page in DOCS.glob("*.md") if page.name != "index.md" and f"({page.name})" not in index] == []


def test_the_pass_of_the_guide_is_a_pass():
    (code,) = re.findall(r"^```python\n(.*?)^```", (DOCS / "writing-a-pass.md").read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": "my_passes"}
    exec(compile(code, "writing-a-pass.md", "exec", dont_inherit=True), names)  # noqa: S102 - our own page
    model = ir.from_onnx_text(BEFORE)
    change = names["MergeReciprocal"]().apply(model, Context(Capabilities("any")))
    assert change.sites == ("z",)
    assert [node.op_type for node in model.graph] == ["Div"]


def test_links_of_the_docs_lead_somewhere():
    for page in DOCS.glob("*.md"):
        links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
        assert [link for link in links if not (page.parent / link).exists()] == [], page.name
