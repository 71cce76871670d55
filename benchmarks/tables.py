"""Write the tables of README.md and results/*.md from results/*.json; ``--check`` only says whether they differ."""

from __future__ import annotations

import json
import re
import sys
from functools import cache

from benchmarks import (
    big_graph,
    cuda,
    fusion,
    install,
    int8_summary,
    kills,
    large,
    passes,
    quantization_summary,
    quantizing_backend,
    rewriting,
    rewriting_backend,
    saturation,
    startup,
    statistics,
)
from benchmarks.common import RESULTS, ROOT, Summary
from benchmarks.peers import summary as peers

SUMMARIES = {
    "startup": startup.summary,
    "rewriting": rewriting.summary,
    "statistics": statistics.summary,
    "int8": int8_summary.summary,
    "install": install.summary,
    "quantization": quantization_summary.summary,
    "saturation": saturation.summary,
    "fusion": fusion.summary,
    "passes": passes.summary,
    "cuda": cuda.summary,
    "rewriting_backend": rewriting_backend.summary,
    "quantizing_backend": quantizing_backend.summary,
    "big_graph": big_graph.summary,
    "kills": kills.summary,
    "large": large.summary,
    "peers": peers.summary,
}

README = ROOT / "benchmarks" / "README.md"
PAGES = ("README.md", "../docs/peers.md")
"""Pages, by their path below benchmarks/, in which tables have places; the rest of them is written by hand."""

PLACE = re.compile(r"(<!-- results of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
MISSING = "Not measured yet."


def tables(name: str, *, brief: bool) -> str:
    """Return what the committed result of a benchmark says, as Markdown."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return MISSING
    text = path.read_text(encoding="utf-8")
    return _summary(name, text).markdown(json.loads(text), brief=brief)


@cache
def _summary(name: str, text: str) -> Summary:
    """Sum a result up once: hundreds of intervals stand in it."""
    return SUMMARIES[name](json.loads(text))


def readme(text: str) -> str:
    """Return the text of README.md with the tables of the committed results in it."""
    return PLACE.sub(lambda found: f"{found[1]}\n{tables(found[2], brief=True)}\n\n{found[3]}", text)


def expected() -> dict[str, str]:
    """Return the text of every file that holds tables, by its path below benchmarks/."""
    files = {page: readme((README.parent / page).read_text(encoding="utf-8")) for page in PAGES}
    for name in SUMMARIES:
        if (RESULTS / f"{name}.json").exists():
            files[f"results/{name}.md"] = f"# {name}\n\n{tables(name, brief=False)}\n"
    return files


def differing() -> list[str]:
    """Return the files whose tables are not those of the results."""
    folder = README.parent
    return [
        name
        for name, text in expected().items()
        if not (folder / name).exists() or (folder / name).read_text(encoding="utf-8") != text
    ]


def write_tables() -> None:
    """Bring every table up to date with the results."""
    for name, text in expected().items():
        (README.parent / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(f"out of date: {', '.join(differing())}" if differing() else 0)
    write_tables()
