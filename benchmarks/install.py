"""What installing mlc adds to torch, onnx and onnxruntime: packages and megabytes."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.common import MET, MISSED, ROOT, Claim, Progress, Result, Summary, Table, result, run

THERE = ("torch", "onnx", "onnxruntime")
OURS = ("mlc", "passes")
"""The folders of the wheel."""

PACKAGES, MEGABYTES = 30, 120
BYTES_IN_MB = 1e6


def measure(quick: bool, progress: Progress) -> Result:  # noqa: ARG001 - nothing is timed: quick is the same
    """Follow the requirements as they are installed here, and add up the files of each package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    there = closure(THERE)
    needed = closure(requirements(project["dependencies"]))
    progress(f"{len(there)} packages are there, {len(needed)} are needed")
    added = {name: found for name, found in sorted(needed.items()) if name not in there}
    packages = {name: {"version": found.version, **sizes(found)} for name, found in added.items()}
    unnamed = imported() - set(needed)
    own = sum(file.stat().st_size for folder in OURS for file in (ROOT / folder).rglob("*.py"))
    packages[canonicalize_name(project["name"])] = {"version": project["version"], "bytes": own, "compiled": 0}
    settings = {"there": list(THERE), "limit_packages": PACKAGES, "limit_mb": MEGABYTES}
    more = {name: [one for key, one in closure([name]).items() if key not in needed] for name in unnamed}
    totals = {name: sum(sizes(one)["bytes"] for one in found) for name, found in more.items()}
    return result("install", settings, added=packages, there=sorted(there), unnamed=totals)


def imported() -> set[str]:
    """Return the distributions that the code imports, lazily too; what it cannot find here it can do without."""
    owners = packages_distributions()
    modules = {
        module.partition(".")[0]
        for folder in OURS
        for path in (ROOT / folder).rglob("*.py")
        for module in modules_of(ast.parse(path.read_text(encoding="utf-8")))
    }
    return {canonicalize_name(owners[module][0]) for module in modules - set(OURS) if module in owners}


def modules_of(tree: ast.Module) -> Iterator[str]:
    """Yield the modules that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def closure(names: Iterable[str]) -> dict[str, Distribution]:
    """Return every distribution that the named ones need, they included, by name.

    Raises PackageNotFoundError for one that is not installed.
    """
    found: dict[str, Distribution] = {}
    waiting: list[str] = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = distribution(name)
            waiting += requirements(found[name].requires or ())
    return found


def requirements(texts: Iterable[str]) -> list[str]:
    """Return the names of the requirements that hold here, without extras."""
    parsed = [Requirement(text) for text in texts]
    return [canonicalize_name(one.name) for one in parsed if one.marker is None or one.marker.evaluate({"extra": ""})]


def sizes(found: Distribution) -> dict[str, int]:
    """Return the bytes of the files of a distribution, and of the modules that were compiled when it was installed."""
    paths = {Path(str(file.locate())) for file in found.files or ()}
    totals = {"bytes": 0, "compiled": 0}
    for path in paths:
        if path.is_file():
            totals["compiled" if path.suffix == ".pyc" else "bytes"] += path.stat().st_size
    return totals


def summary(measured: Result) -> Summary:
    """Count the packages and add up their sizes."""
    added, limits = measured["added"], measured["settings"]
    total, compiled = (sum(one[key] for one in added.values()) / BYTES_IN_MB for key in ("bytes", "compiled"))
    most = limits["limit_mb"]
    rows = [
        (name, one["version"], *(f"{one[key] / BYTES_IN_MB:.2f}" for key in ("bytes", "compiled")))
        for name, one in sorted(added.items(), key=lambda item: -item[1]["bytes"])
    ]
    claims = (
        Claim(f"at most {limits['limit_packages']} packages more", str(len(added)),
              MET if len(added) <= limits["limit_packages"] else MISSED),
        Claim(f"at most {most} MB more", f"{total:.1f} MB", MET if total <= most else MISSED),
        Claim(f"at most {most} MB more, with what pip compiles", f"{total + compiled:.1f} MB",
              MET if total + compiled <= most else MISSED),
    )  # fmt: skip
    title = f"What comes with mlc beside {', '.join(limits['there'])} and what they need ({len(measured['there'])})"
    unnamed = tuple(
        f"Imported, but not named in pyproject.toml: {name}, with what it needs {more / BYTES_IN_MB:.1f} MB more."
        for name, more in sorted(measured["unnamed"].items())
    )
    return Summary(claims, (Table(title, ("package", "version", "MB", "MB compiled"), tuple(rows)),), unnamed)


if __name__ == "__main__":
    run(measure, summary)
