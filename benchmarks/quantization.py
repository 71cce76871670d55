"""mlc's number formats against every documented setting of the peers on trained models: accuracy, speed and size."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx

from benchmarks.avx2 import is_hidden
from benchmarks.common import ROOT, Progress, Result, at_root, result, run
from benchmarks.int8 import same_files
from benchmarks.int8_settings import Quantizer, pathless
from benchmarks.int8_settings import Setting as EightBits
from benchmarks.peers.installing import Environment
from benchmarks.peers.tools import QUIET
from benchmarks.quantization_accuracy import judged
from benchmarks.quantization_blocks import quantize_blocks
from benchmarks.quantization_models import MINILM, SAMPLES, Step, Subject, minilm, sample, step, wide_step
from benchmarks.quantization_settings import DYNAMIC, RECOMMENDED, Nncf, Setting, few, name_of, peers, recommended
from benchmarks.quantization_summary import AGAIN, DEFAULT, FIXED, FORMATS, FP32, GPTQ, Rounds, ahead, summary
from benchmarks.sets import Timing, timed
from mlc import api
from mlc.artifact import Artifact, write_model
from mlc.errors import MlcError
from mlc.exporting.opset import NEWER
from mlc.figures import counted
from mlc.grammar.values import parse_target
from mlc.machine import cores, machine
from mlc.measuring import Candidate, bench
from mlc.pipeline.opset import able_for, export_opset
from mlc.pipeline.quantizing import quantizing
from mlc.plan import formats_for
from mlc.recipe import merge
from mlc.registry import build, schedule
from mlc.runtimes.cpu import capabilities
from mlc.types import PassSpec, Target

TARGETS = {"onnxruntime": "cpu", "openvino": "openvino/cpu"}
"""What ``--target`` is called, by runtime."""

QUICK, QUICK_FORMATS = ("lstm",), ("int8-dynamic",)
SLOW = "depthwise_cnn"
"""The model of which the report has to say plainly whether fp32 is faster, as it is on some CPUs."""

TOGETHER, SECONDS = 8, 10.0
AFRESH, AFRESH_SECONDS = 4, 20.0
"""Models in a set that is timed, and the seconds that it may take; the same for those that are timed again."""

PATIENCE = 3600
"""Seconds that each peer may take for all settings of one model."""

QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeLSTM", "MatMulNBits",
             "GatherBlockQuantized", "MatMulInteger", "ConvInteger", "MatMulInteger16"}  # fmt: skip
"""Operators of which a quantized model has at least one, or one that begins with QLinear."""


def measure(quick: bool, progress: Progress) -> Result:
    """Quantize every model with every setting, judge all of it, and time what may be better than mlc's default."""
    names = QUICK if quick else (*SAMPLES, MINILM)
    settings = few() if quick else peers()
    models: dict[str, Any] = {}
    unmeasured: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="mlc-quantization-") as name, at_root():
        folder = Path(name)
        nncf = "not asked for" if quick else environment(folder / "nncf")
        for one in names:
            progress(one)
            place = folder / one
            place.mkdir()
            try:
                subject = minilm(place) if one == MINILM else sample(one)
            except MlcError as error:
                unmeasured[one] = pathless(str(error))
                continue
            models[one] = measured(subject, settings, nncf, place, quick=quick, progress=progress)
        if not quick:
            for made in (step(), wide_step()):
                models[made.name] = one_token(made, folder, progress)
    asked = {
        "quick": quick, "settings": len(settings), "together": TOGETHER, "seconds": SECONDS, "afresh_together": AFRESH,
        "afresh_seconds": AFRESH_SECONDS,
    }  # fmt: skip
    return result("quantization", asked, packages=("transformers",), models=models, unmeasured=unmeasured)


def measured(
    subject: Subject,
    settings: Sequence[Setting],
    nncf: Environment | str,
    folder: Path,
    *,
    quick: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Return what became of one model: the peers' files, and on each runtime accuracy and speed beside mlc's."""
    export = Candidate(FP32, write_model(subject.exported.model, folder))
    took: dict[str, float] = {}
    theirs, failed = by_peers(subject, settings, nncf, export.path, seconds=took, progress=progress)
    same = same_files({name: candidate.path for name, candidate in theirs.items()})
    theirs = {name: candidate for name, candidate in theirs.items() if name not in same}
    runtimes: dict[str, Any] = {}
    for runtime in ("onnxruntime",) if quick or not has_openvino() else TARGETS:
        target, refused = parse_target(TARGETS[runtime]), dict[str, str]()
        seconds = dict(took)
        formats = QUICK_FORMATS if quick else FORMATS
        ours = by_mlc(subject, formats, target, folder / runtime, failed=refused, seconds=seconds)
        candidates = {FP32: export, **ours, **theirs}
        sizes = {name: size_of(candidate.path) for name, candidate in candidates.items()}
        data = subject.evaluation(100 if quick else None)
        accuracy = judged(
            candidates, data, subject.metric, target, first=(FP32, DEFAULT), failed=refused, progress=progress
        )
        one: dict[str, Any] = {"accuracy": accuracy, "sizes": sizes, "seconds": seconds, "failed": refused}
        if DEFAULT in accuracy:
            candidates[AGAIN] = ours[DEFAULT]
            one |= raced(subject, candidates, accuracy, target, failed=refused, quick=quick, progress=progress)
        runtimes[runtime] = one
    about = {"where": where(), "metric": subject.metric.name, "at": dict(subject.at), "failed": failed, "same": same}
    lines = {"first_line": first_line(subject)} if subject.name == SLOW else {}
    return {**about, **lines, "runtimes": runtimes}


def by_mlc(
    subject: Subject,
    formats: Sequence[str],
    target: Target,
    folder: Path,
    *,
    failed: dict[str, str],
    seconds: dict[str, float],
) -> dict[str, Candidate]:
    """Write what mlc makes for a target: its default int8, and each format alone. What it refuses has failed.

    It exports in the opset that ``mlc quantize`` would take. ``seconds`` are those of rewriting and verifying.
    """
    exported: dict[int | None, Artifact] = {}
    found = {}
    for number, asked in enumerate(("int8", *formats)):
        name = f"mlc {asked}"
        place = folder / str(number)
        place.mkdir(parents=True)
        opset = opset_for(subject, asked, target)
        if opset not in exported:
            exported[opset] = api.export(subject.original, data=subject.recipe.calibrate, opset=opset)
        try:
            with timing(name, seconds):
                artifact = compiled(subject, exported[opset], asked, target)
        except MlcError as error:
            failed[name] = pathless(str(error))
            continue
        found[name] = Candidate(name, write_model(artifact.model, place), artifact.session_options)
    return found


def opset_for(subject: Subject, asked: str, target: Target) -> int | None:
    """Return the opset in which ``mlc quantize`` would export for a format and a target, None for the usual one."""
    recipe = merge(None, {"source": "python:", **_how(asked), "target": target})
    specs = schedule(quantizing(recipe).all)
    return export_opset(recipe, specs, subject.original, able_for(recipe, specs))


def _how(asked: str) -> dict[str, Any]:
    return {"passes": [GPTQ]} if asked == GPTQ else {"to": asked}


def compiled(subject: Subject, exported: Artifact, asked: str, target: Target) -> Artifact:
    """Return an export in a number format, or by gptq; data are given where a pass of it calibrates."""
    calibrates = asked == GPTQ or any(build(PassSpec(name)).calibrates for name in formats_for(asked, target))
    calibrate = subject.recipe.calibrate if calibrates else None
    return api.rewrite(exported, subject.original, **_how(asked), calibrate=calibrate, target=target)


@contextmanager
def timing(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Keep how long the block took, whether it ended well or not."""
    begun = time.monotonic()
    try:
        yield
    finally:
        seconds[name] = round(time.monotonic() - begun, 1)


def by_peers(
    subject: Subject,
    settings: Sequence[Setting],
    nncf: Environment | str,
    exported: Path,
    *,
    seconds: dict[str, float],
    progress: Progress,
) -> tuple[dict[str, Candidate], dict[str, str]]:
    """Write what the peers make of the fp32 export, beside it, with every setting; return that, and what failed why.

    ``seconds`` is what each setting of onnxruntime takes; the peers' own checks, if they have any, are in it.
    """
    calibration, folder = subject.calibration(), exported.parent
    quantize = Quantizer(exported, calibration, folder)
    files: dict[str, Path] = {}
    failed: dict[str, str] = {}
    begun = time.monotonic()
    for number, setting in enumerate(settings):
        name, path, error = name_of(setting), folder / f"peer-{number}.onnx", ""
        if isinstance(setting, Nncf):
            continue
        if time.monotonic() - begun > PATIENCE:
            failed[name] = f"onnxruntime had not come to it after {PATIENCE / 60:.0f} minutes"
            continue
        progress(f"setting {number + 1} of {len(settings)}: {name}")
        with chdir(folder), timing(name, seconds):  # onnxruntime leaves files where it works
            if isinstance(setting, EightBits):
                made, error = quantize(setting, number)
                path = made or path
            else:
                error = quantize_blocks(exported, calibration, setting, path)
        files[name] = path
        if error:
            failed[name] = error
    chosen = {setting.name: setting for setting in settings if isinstance(setting, Nncf)}
    if isinstance(nncf, str):
        failed |= dict.fromkeys(chosen, nncf)
    else:
        places = {name: folder / f"nncf-{number}.onnx" for number, name in enumerate(chosen)}
        files |= places
        failed |= by_nncf(subject, chosen, places, exported, nncf)
    failed |= {name: "it quantized nothing" for name, path in files.items() if name not in failed and is_float(path)}
    return {name: Candidate(name, path) for name, path in files.items() if name not in failed}, failed


def size_of(path: Path) -> int:
    """Return the bytes of a model, with those of the weights beside it."""
    return sum(file.stat().st_size for file in (path, path.with_name(f"{path.name}.data")) if file.exists())


def is_float(path: Path) -> bool:
    """Whether no operator of a model computes with, or reads, integers in the place of floats."""
    model = onnx.load(path, load_external_data=False)
    return not any(node.op_type in QUANTIZED or node.op_type.startswith("QLinear") for node in model.graph.node)


def environment(folder: Path) -> Environment | str:
    """Install NNCF, as its documentation says, in an environment of its own; return that, or why there is none."""
    try:
        found = Environment(folder)
        found.install(["nncf", "onnx", "onnxruntime"])
    except (RuntimeError, subprocess.CalledProcessError) as error:
        return pathless(str(error))
    return found


def by_nncf(
    subject: Subject, settings: Mapping[str, Nncf], places: Mapping[str, Path], exported: Path, nncf: Environment
) -> dict[str, str]:
    """Let NNCF write a file for each setting, in a process of its environment; return what failed why, by name."""
    recipe = subject.recipe
    job, results = (exported.with_name(f"nncf.{ending}") for ending in ("json", "results"))
    listed = [
        {"name": name, "function": setting.function, "arguments": dict(setting.arguments),
         "advanced": dict(setting.advanced), "path": str(places[name])}
        for name, setting in settings.items()
    ]  # fmt: skip
    asked = {
        "model": str(exported), "calibration": str(ROOT / str(recipe.calibrate)), "metric": recipe.metric,
        "evaluation": str(ROOT / str(recipe.data)), "settings": listed, "results": str(results),
    }  # fmt: skip
    job.write_text(json.dumps(asked), encoding="utf-8")
    results.touch()
    command = [str(nncf.programs / "python"), "-m", "benchmarks.quantization_nncf", str(job)]
    variables = {**os.environ, **QUIET, "NNCF_CI": "1"}
    try:
        subprocess.run(command, cwd=ROOT, env=variables, stdout=subprocess.DEVNULL, timeout=PATIENCE, check=True)
        otherwise = ""
    except subprocess.CalledProcessError as error:
        otherwise = f"NNCF's process ended with exit code {error.returncode} before it"
    except subprocess.TimeoutExpired:
        otherwise = f"NNCF had not come to it after {PATIENCE / 60:.0f} minutes"
    said: dict[str, str] = dict(json.loads(line) for line in results.read_text(encoding="utf-8").splitlines())
    errors = {name: said.get(name, otherwise) for name in settings}
    return {name: pathless(error) for name, error in errors.items() if error}


def raced(
    subject: Subject,
    candidates: Mapping[str, Candidate],
    accuracy: Mapping[str, Any],
    target: Target,
    *,
    failed: dict[str, str],
    quick: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Time mlc's formats, what the peers recommend, and what is more accurate than mlc's default beyond the interval.

    Whatever is not, by any figure, cannot be better in accuracy and speed. What was ahead in both is timed afresh, and
    only those rounds decide, since the best of many is lucky. With one thread, as the aims are set, only the default is
    timed, and onnxruntime's dynamic quantization.
    """
    better = [
        name for name, one in accuracy.items() if any(figure and figure[1] > 0 for figure in one["against"].values())
    ]
    named = [name for name in (*(f"mlc {each}" for each in FORMATS), *RECOMMENDED) if name in accuracy]
    names = [name for name in dict.fromkeys([*named, *better]) if name not in FIXED]
    inputs = subject.timed_inputs()
    usual = Timing(TOGETHER, 1.0 if quick else SECONDS, 0)
    longer = Timing(AFRESH, 1.0 if quick else AFRESH_SECONDS, 1)

    def sets(names: Sequence[str], how: Timing, target: Target) -> Rounds:
        with bench(inputs, target, subject.at, seconds=how.seconds, seed=how.seed) as shared:
            return timed(candidates, names, how, fixed=FIXED, shared=shared, failed=failed, progress=progress)

    first = sets(names, usual, target)
    alone = sets([name for name in names if name == DYNAMIC], usual, replace(target, threads=1))
    return {"sets": first, "afresh": sets(ahead(accuracy, first), longer, target), "one_thread": alone}


def one_token(one: Step, folder: Path, progress: Progress) -> dict[str, Any]:
    """Time one step of a language model: dynamic int8 by mlc and by onnxruntime, beside the fp32 export."""
    progress(one.name)
    original, arrays = one.original, one.arrays
    place = folder / one.name
    place.mkdir()
    export = Candidate(FP32, write_model(api.export(original).model, place))
    ours, theirs = place / "mlc", place / "onnxruntime"
    ours.mkdir()
    theirs.mkdir()
    artifact = api.rewrite(api.export(original, opset=NEWER), original, to="int8-dynamic")  # which needs no data
    default = Candidate(DEFAULT, write_model(artifact.model, ours), artifact.session_options)
    made, error = Quantizer(export.path, arrays, theirs)(recommended()[0], 0)
    failed = {} if made else {DYNAMIC: error}
    candidates = {FP32: export, DEFAULT: default, AGAIN: default}
    candidates |= {DYNAMIC: Candidate(DYNAMIC, made)} if made else {}
    names = [name for name in candidates if name not in FIXED]
    how, sizes = Timing(TOGETHER, SECONDS, 0), {"batch": 1, "past": arrays["past.0"].shape[2]}
    found = {}
    for stage, threads in (("sets", None), ("one_thread", 1)):
        with bench(arrays, Target(threads=threads), sizes, seconds=how.seconds, seed=how.seed) as shared:
            found[stage] = timed(candidates, names, how, fixed=FIXED, shared=shared, failed=failed, progress=progress)
    return {"where": where(), "at": sizes, "failed": failed, "runtimes": {"onnxruntime": found}}


def where() -> str:
    """Return the machine as far as figures of integers depend on it, and the day: models may be measured on several."""
    able, today = capabilities(Target(device="native")), datetime.now(UTC).date().isoformat()
    vnni = "VNNI hidden from the runtimes" if is_hidden() else "with VNNI" if able.vnni else "without VNNI"
    return f"{machine().cpu}, {counted(cores(), 'core')}, {vnni}, {today}"


def has_openvino() -> bool:
    """Whether OpenVINO is installed beside mlc."""
    return find_spec("openvino") is not None


def first_line(subject: Subject) -> str:
    """Return the first line of the report on the model in mlc's default int8."""
    recipe = subject.recipe
    report = api.compile(
        recipe.source, inputs=recipe.inputs, to="int8", calibrate=recipe.calibrate, data=recipe.data,
        metric=recipe.metric, at=subject.at,
    )  # fmt: skip
    return report.first_line


if __name__ == "__main__":
    run(measure, summary)
