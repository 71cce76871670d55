"""The code in docs/ works as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnx_ir as ir

from mlc.graph_pass import Context
from mlc.types import Capabilities

DOCS = Path(__file__).parents[1] / "docs"

BEFORE = """
<ir_version: 9, opset_import: ["" : 20]>
g (float[2,3] x, float[2,3] y) => (float[2,3] z) {
    r = Reciprocal(y)
    z = Mul(x, r)
}
"""


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
