"""Jobs for fresh processes: what is asked goes to the worker as JSON, what was measured comes back as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlc
from mlc import errors
from mlc.errors import MlcError, TargetError
from mlc.installed import FOLDERS
from mlc.measuring.nouns import Candidate
from mlc.runtimes.session import NodeRun, OperatorTime, Placement, Profile
from mlc.types import Target

WORKER = "mlc.measuring.worker"


def job(
    kind: str, candidates: Sequence[Candidate], target: Target, inputs: Mapping[str, Path], **more: Any
) -> dict[str, Any]:
    """Return a job: its kind, the models with their session options, the target and the files of the inputs."""
    models = [{"path": str(one.path.absolute()), "options": dict(one.session_options)} for one in candidates]
    files = {name: str(file) for name, file in inputs.items()}
    return {"kind": kind, "models": models, "target": dataclasses.asdict(target), "inputs": files, **more}


def run_job(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Run one job in a fresh process. Raises the worker's own error, or TargetError where it died.

    The process is killed where this one is interrupted.
    """
    command = [sys.executable, "-P", "-m", WORKER]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    pipes["errors"] = "replace"  # libraries complain in whatever bytes they like
    with subprocess.Popen(command, **pipes, text=True, encoding="utf-8", env=_environment()) as process:  # noqa: S603
        try:
            output, complaints = process.communicate(json.dumps(asked))
        finally:
            process.kill()
    lines = output.splitlines()
    if process.returncode != 0 or not lines:
        raise TargetError(
            _obituary(asked, process.returncode, complaints), "the model crashes its runtime: try `mlc doctor`"
        )
    answer: dict[str, Any] = json.loads(lines[-1])
    if "error" in answer:
        raise _raised(answer["error"])
    return answer


def _environment() -> dict[str, str]:
    """The environment in which the worker finds this very mlc, also where it is not installed."""
    root = Path(mlc.__file__).resolve().parent.parent
    if root.name in FOLDERS:
        return dict(os.environ)
    paths = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, str(root)])}


def _obituary(asked: Mapping[str, Any], code: int | None, complaints: str) -> str:
    names = ", ".join(dict.fromkeys(Path(model["path"]).name for model in asked["models"]))
    lines = [line.strip() for line in complaints.splitlines() if line.strip()]
    death = f"signal {-code}" if code is not None and code < 0 else f"exit code {_exit_code(code)}"
    return f"the process that measured {names} died with {death}: {lines[-1] if lines else 'it said nothing'}"


def _exit_code(code: int | None) -> str:
    """Return an exit code, one of Windows' own as it is written everywhere: 0xc0000005."""
    return f"{code:#x}" if code is not None and code > 0xFFFF else str(code)  # noqa: PLR2004


def _raised(told: Mapping[str, str]) -> MlcError:
    kind = getattr(errors, told["kind"], TargetError)
    raised: MlcError = kind(told["message"], told["hint"])
    return raised


def error_answer(error: MlcError) -> dict[str, Any]:
    """Return the worker's answer for an error."""
    return {"error": {"kind": type(error).__name__, "message": error.message, "hint": error.hint}}


def target_of(told: Mapping[str, Any]) -> Target:
    """Return a target that went through JSON."""
    return Target(**{**told, "options": tuple((key, value) for key, value in told["options"])})


def nodes_of(told: Sequence[Mapping[str, str]]) -> tuple[NodeRun, ...]:
    """Return nodes that went through JSON."""
    return tuple(NodeRun(**node) for node in told)


def profile_of(told: Mapping[str, Any]) -> Profile:
    """Return a profile that went through JSON."""
    placement = dict(told["placement"])
    nodes = {key: nodes_of(placement[key]) for key in ("assigned", "ran", "fallbacks")}
    return Profile(Placement(**{**placement, **nodes}), tuple(OperatorTime(**one) for one in told["operators"]))
