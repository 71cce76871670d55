"""Is this installation sound? Versions, providers, what the CPU has, and who else is called ``mlc``."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from mlc.errors import MlcError
from mlc.types import Capabilities, Target

DISTRIBUTION = "mlc-toolchain"
COMMAND = "mlc"
PACKAGES = ("mlc", "passes")
"""What this distribution brings at the top level."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found; a version that is missing and a provider that fails carry the reason instead."""

    python: str
    location: str
    versions: Mapping[str, str]
    providers: Mapping[str, str]
    cpu: Capabilities | None
    passes: Mapping[str, str]
    clashes: tuple[str, ...]
    notes: tuple[str, ...]


def diagnose(progress: Callable[[str], None] = lambda _text: None) -> Diagnosis:
    """Look at this installation, working directory and machine."""
    progress("reading versions")
    versions = {name: _version(name) for name in (DISTRIBUTION, *_required())}
    progress("creating a session on each provider")
    providers, cpu, notes = _runtime()
    progress("loading the passes")
    return Diagnosis(
        python=f"{sys.version.split()[0]} at {sys.executable}",
        location=str(Path(__file__).parent),
        versions=versions,
        providers=providers,
        cpu=cpu,
        passes=_passes(),
        clashes=clashes(),
        notes=(*notes, *_other_commands()),
    )


def clashes() -> tuple[str, ...]:
    """Return who else claims our names: distributions, a folder or file in the working directory, a command."""
    return (*_mixed_packages(), *_shadows(Path.cwd()), *_claimed_command())


def render(diagnosis: Diagnosis) -> str:
    """Return the diagnosis for a terminal."""
    blocks = [
        _table("versions", {"python": diagnosis.python, "mlc": diagnosis.location, **diagnosis.versions}),
        _table("providers", diagnosis.providers),
        _table("cpu", _cpu(diagnosis.cpu) if diagnosis.cpu else {}),
        _table("passes that cannot be loaded", {name: why for name, why in diagnosis.passes.items() if why != "ok"}),
        [f"clash: {clash}" for clash in diagnosis.clashes] or ["no name clashes"],
        [f"note: {note}" for note in diagnosis.notes],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def render_json(diagnosis: Diagnosis) -> str:
    """Return the diagnosis as JSON."""
    return json.dumps(dataclasses.asdict(diagnosis), indent=2) + "\n"


def _table(title: str, rows: Mapping[str, str]) -> list[str]:
    width = max(map(len, rows), default=0)
    return [title, *(f"  {name.ljust(width)}  {text}" for name, text in rows.items())] if rows else []


def _cpu(cpu: Capabilities) -> dict[str, str]:
    flags = {"avx2": cpu.avx2, "vnni": cpu.vnni, "amx": cpu.amx, "arm dot product": cpu.arm_dot}
    sums = "may saturate at 16 bits" if cpu.saturates else "are added in 32 bits"
    return {
        "is": cpu.description,
        "has": ", ".join(name for name, has in flags.items() if has) or "none of " + ", ".join(flags),
        "int8": f"pairs of u8*s8 products {sums}",
    }


def _required() -> list[str]:
    """Return the distributions that ours requires, without its extras."""
    required = metadata.requires(DISTRIBUTION) or []
    return [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in required if "extra ==" not in line]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _runtime() -> tuple[dict[str, str], Capabilities | None, tuple[str, ...]]:
    """Return what happened on each provider, and what the CPU has; without onnxruntime a note."""
    try:
        from mlc.runtimes.cpu import capabilities
        from mlc.runtimes.providers import available
    except ImportError as error:
        return {}, None, (f"onnxruntime cannot be imported: {error}",)
    return {name: _tried(name) for name in available()}, capabilities(Target(device="native")), ()


def _tried(provider: str) -> str:
    """Create a session on a provider and run it once."""
    from mlc.runtimes.one_node import try_target

    try:
        try_target(Target(provider=provider))
    except MlcError as error:
        return f"unusable: {error.message}"
    return "ok"


def _passes() -> dict[str, str]:
    from mlc.registry import available, pass_class

    found = {}
    for name in available():
        try:
            pass_class(name)
            found[name] = "ok"
        except MlcError as error:
            found[name] = error.message
    return found


def _mixed_packages() -> list[str]:
    owners = metadata.packages_distributions()
    return [
        f"the distribution {other} brings a top-level package {package!r} too; pip mixes the files: uninstall one"
        for package in PACKAGES
        for other in sorted(set(owners.get(package, ())) - {DISTRIBUTION})
    ]


def _shadows(folder: Path) -> list[str]:
    ours = Path(__file__).resolve().parent.parent
    if folder.resolve() == ours:
        return []
    candidates = [path for package in PACKAGES for path in (folder / package / "__init__.py", folder / f"{package}.py")]
    return [
        f"{path.parent if path.name == '__init__.py' else path} shadows mlc's own {package_of(path)!r} under "
        f"`python -m mlc`: run the command `{COMMAND}`, or from another directory"
        for path in candidates
        if path.exists()
    ]


def package_of(path: Path) -> str:
    """Return the name under which a file is imported from its folder."""
    return path.parent.name if path.name == "__init__.py" else path.stem


def _claimed_command() -> list[str]:
    points = metadata.entry_points(group="console_scripts", name=COMMAND)
    others = sorted({point.dist.name for point in points if point.dist is not None} - {DISTRIBUTION})
    return [
        f"the distribution {other} brings a command {COMMAND!r} too: call ours as mlc-toolchain" for other in others
    ]


def _other_commands() -> list[str]:
    """Return a note on a command ``mlc`` that comes first on PATH and is not of this environment."""
    found = shutil.which(COMMAND)
    here = Path(sysconfig.get_path("scripts"))
    if found is None or Path(found).resolve().parent == here.resolve():
        return []
    return [f"the command {COMMAND!r} on PATH is {found}, of another environment than this one ({here})"]
