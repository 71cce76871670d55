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
from mlc.figures import counted, megabytes
from mlc.grammar.values import target_text
from mlc.machine import BUILDS, RUNTIMES, installed
from mlc.machine import PACKAGES as CORE
from mlc.references import written_so
from mlc.types import Capabilities, Target

DISTRIBUTION = "mlc-toolchain"
COMMAND = "mlc"
RUNTIME = "onnxruntime"
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
    cache: Mapping[str, str]
    clashes: tuple[str, ...]
    notes: tuple[str, ...]


def diagnose(progress: Callable[[str], None] = lambda _text: None) -> Diagnosis:
    """Look at this installation, working directory and machine."""
    progress("reading versions")
    optional = [name for name in RUNTIMES if installed(name)]
    replaced = {RUNTIME} if {*optional} & {*BUILDS} and not installed(RUNTIME) else set()
    wanted = [name for name in (DISTRIBUTION, *_required(), *optional) if name not in replaced]
    versions = {name: _version(name) for name in wanted}
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
        cache=_cache(),
        clashes=clashes(),
        notes=(*notes, *_other_commands()),
    )


def clashes() -> tuple[str, ...]:
    """Return who else claims our names: distributions, a folder or file in the working directory, a command."""
    return (*_mixed_packages(), *_mixed_runtimes(), *_shadows(Path.cwd()), *_claimed_command())


def render(diagnosis: Diagnosis) -> str:
    """Return the diagnosis for a terminal."""
    blocks = [
        _table("versions", {"python": diagnosis.python, "mlc": diagnosis.location, **diagnosis.versions}),
        _table("providers", diagnosis.providers),
        _table("cpu", _cpu(diagnosis.cpu) if diagnosis.cpu else {}),
        _table("passes that cannot be loaded", {name: why for name, why in diagnosis.passes.items() if why != "ok"}),
        _table("exports kept for later runs", diagnosis.cache),
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
    """Return the distributions that ours requires, without its extras; where it is not installed, those at its core."""
    try:
        required = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        required = [*CORE]
    return [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in required if "extra ==" not in line]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _runtime() -> tuple[dict[str, str], Capabilities | None, tuple[str, ...]]:
    """Return what happened on each provider and device, and what the CPU has; without onnxruntime a note."""
    try:
        from mlc.runtimes.cpu import capabilities
        from mlc.runtimes.providers import available
    except ImportError as error:
        return {}, None, (f"onnxruntime cannot be imported: {error}",)
    providers = {name: _tried(Target(provider=name)) for name in available()}
    found, notes = _openvino()
    return {**providers, **found}, capabilities(Target(device="native")), notes


def _openvino() -> tuple[dict[str, str], tuple[str, ...]]:
    """Return what happened on each device of OpenVINO's own runtime; a note where it does not start."""
    from mlc.runtimes.one_node import openvino_targets

    try:
        return {target_text(target): _tried(target) for target in openvino_targets()}, ()
    except MlcError as error:
        return {}, (error.message,)


def _tried(target: Target) -> str:
    """Create a session on a target and run it once."""
    from mlc.runtimes.one_node import try_target

    try:
        device = try_target(target)
    except MlcError as error:
        return f"unusable: {error.message}"
    return f"ok: {device}" if device else "ok"


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


def _cache() -> dict[str, str]:
    """Return where exports are kept, and how many there are of which size."""
    try:
        from mlc.exporting.cache import default_cache
    except ImportError as error:
        return {"unusable": str(error)}
    kept = default_cache()
    entries = kept.entries()
    size = megabytes(sum(entry.size for entry in entries))
    return {"in": str(kept.folder), "kept": f"{counted(len(entries), 'export')}, {size}"}


def clear_cache() -> str:
    """Remove every export that is kept; returns what was removed, as a sentence."""
    from mlc.exporting.cache import default_cache

    kept = default_cache()
    before = sum(entry.size for entry in kept.entries())
    gone = kept.clear()
    size = megabytes(before - sum(entry.size for entry in kept.entries()))
    return f"{counted(gone, 'export')} removed from {kept.folder}, {size}"


def _mixed_packages() -> list[str]:
    owners = metadata.packages_distributions()
    return [
        f"the distribution {other} brings a top-level package {package!r} too; pip mixes the files: uninstall one"
        for package in PACKAGES
        for other in sorted(set(owners.get(package, ())) - {DISTRIBUTION})
    ]


def _mixed_runtimes() -> list[str]:
    first, *others = [name for name in (RUNTIME, *BUILDS) if installed(name)] or [RUNTIME]
    return [
        f"{first} and {other} are installed together; pip mixes their files: uninstall both, then install one"
        for other in others
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
        if path.exists() and written_so(folder, package_of(path))
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
