"""The tables of a result: what the job took, what each tool tells, and what each does where something is wrong."""

from __future__ import annotations

from typing import Any

from benchmarks.common import Claim, Result, Summary, Table
from benchmarks.peers.tools import FACTS

MEGA = 1e6
NONE = "-"


def summary(measured: Result) -> Summary:
    """Lay out what was measured; a comparison of tools promises nothing, so every claim is one that is reported."""
    tools: dict[str, dict[str, Any]] = measured["tools"]
    header = ("", *tools)
    silent = {name: sum(1 for one in made(figures) if wrong(one)) for name, figures in tools.items()}
    asked = {name: len(made(figures)) for name, figures in tools.items()}
    claims = tuple(
        Claim(f"{name}: mistakes that end with exit code 0 and a model", f"{silent[name]} of {asked[name]}", "reported")
        for name in tools
    )
    return Summary(
        claims,
        (
            Table("The job", header, tuple(job_rows(measured))),
            Table("What each tells the user", header, tuple(told_rows(tools))),
            Table("What each does where something is wrong", header, tuple(mistake_rows(tools))),
            Table("What each says then", ("", "tool", "said"), tuple(said_rows(tools)), brief=False),
            Table("Packages that come with each", ("tool", "packages"), tuple(package_rows(tools)), brief=False),
        ),
        tuple(notes(measured)),
    )


def made(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the mistakes that could be made with a tool."""
    return [one for one in figures["mistakes"].values() if one is not None]


def wrong(one: dict[str, Any]) -> bool:
    """Whether a run in which something was wrong ended as if all were right."""
    return one["code"] == 0 and one["wrote"]


def job_rows(measured: Result) -> list[tuple[str, ...]]:
    """Return one row for each figure of the job."""
    tools, speed = measured["tools"], measured["speed"]
    fp32 = f" (fp32 {measured['fp32']:.2%})" if "fp32" in measured else ""
    rows = {
        "files, lines, characters written": [
            "{files}, {lines}, {characters}".format(**figures["written"]) for figures in tools.values()
        ],
        "obstacles until it ran": [str(len(figures["met"])) for figures in tools.values()],
        "packages more": [str(figures["packages"]) for figures in tools.values()],
        "MB more": [f"{figures['bytes'] / MEGA:.0f}" for figures in tools.values()],
        "seconds of pip install": [f"{figures['install_seconds']:.0f}" for figures in tools.values()],
        "seconds of the job": [f"{figures['seconds']:.0f}" for figures in tools.values()],
        "exit code": [str(figures["code"]) for figures in tools.values()],
        f"top-1 of the int8 model{fp32}": [
            f"{figures['top1']:.2%}" if "top1" in figures else NONE for figures in tools.values()
        ],
        "times the fp32 export": [ratio_text(speed[name]["ratio"]) if name in speed else NONE for name in tools],
        "KB of the model": [
            f"{figures['model_bytes'] / 1e3:.0f}" if "model_bytes" in figures else NONE for figures in tools.values()
        ],
        "8-bit products may saturate on": [saturates(figures) for figures in tools.values()],
        "reports to its makers by default": [reports(name, figures) for name, figures in tools.items()],
    }
    return [(name, *cells) for name, cells in rows.items()]


def ratio_text(ratio: list[float]) -> str:
    """Return a ratio with its interval."""
    return "{:.2f} ({:.2f} to {:.2f})".format(*ratio)


def saturates(figures: dict[str, Any]) -> str:
    """Return on which runtimes the products of a model may leave 16 bits, by mlc's proof."""
    sentences = figures.get("saturation", [])
    found = [
        sentence.partition(" saturate on ")[2].partition(" in ")[0]
        for sentence in sentences
        if sentence.startswith("product sums may")
    ]
    return "; ".join(found) or ("none" if sentences else NONE)


def reports(name: str, figures: dict[str, Any]) -> str:
    """Return whose code in an environment reports, unless it is told not to."""
    if name == "mlc":
        return "no: it switches onnxruntime's off"
    parts = {"onnxruntime": "onnxruntime", "olive": "Olive"}
    found = [parts[file.partition("/")[0]] for file in figures["reports"]]
    return ", ".join(found) or "no"


def told_rows(tools: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return one row for each fact: told, by the user's own lines, or not."""
    return [(fact, *(told_text(figures["tells"], fact, name) for name, figures in tools.items())) for fact in FACTS]


def told_text(tells: dict[str, bool], fact: str, name: str) -> str:
    """Return whether a tool tells a fact."""
    if not tells.get(fact):
        return "no"
    return "by the user's own lines" if name in {"onnxruntime", "optimum"} else "yes"


def mistake_rows(tools: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return one row for each mistake: exit code, whether a traceback was shown, and what was written."""
    mistakes = next(iter(tools.values()))["mistakes"]
    return [
        (mistake, *(mistake_text(figures["mistakes"].get(mistake)) for figures in tools.values()))
        for mistake in mistakes
    ]


def mistake_text(one: dict[str, Any] | None) -> str:
    """Return what happened in a few words."""
    if one is None:
        return NONE
    how = f"{one['code']}, traceback" if one["traceback"] else str(one["code"])
    if not one["wrote"]:
        return how
    how += ", a line that names it" if one["named"] else ""
    return f"{how}, a model that is broken" if "broken" in one else f"{how}, a model with top-1 {one['top1']:.2%}"


def said_rows(tools: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return what each tool said last for each mistake, and on the way to the first success."""
    rows = [("until it ran", name, text) for name, figures in tools.items() for text in figures["met"]]
    mistakes = next(iter(tools.values()))["mistakes"]
    for mistake in mistakes:
        said = {name: figures["mistakes"].get(mistake) for name, figures in tools.items()}
        rows += [(mistake, name, f"exit {one['code']}: {one['said']}") for name, one in said.items() if one is not None]
    return rows


def package_rows(tools: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return the packages that each tool brought, with their versions."""
    return [
        (name, ", ".join(f"{package} {version}" for package, version in figures["versions"].items()))
        for name, figures in tools.items()
    ]


def notes(measured: Result) -> list[str]:
    """Return what the figures are of."""
    settings = measured["settings"]
    text = (
        f"Packages and MB are those beside {', '.join(settings['there'])} and what they need; "
        f"{', '.join(settings['pinned'])} have the same version for all, everything else is what pip takes today. "
        f"Speed is that of batches of {settings['batch']}, all models in one set, with 95 % intervals."
    )
    return [text]
