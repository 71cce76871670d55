"""The command line: what it refuses and how it says so, which stream gets what, and what it hands to the pipeline."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from mlc.cli import main
from mlc.cli.options import flag
from mlc.errors import DataError, MlcError, OutputError, PassError, SourceError, TargetError, UsageError
from mlc.recipe import Recipe, parse_inputs
from mlc.recipe.fields import FIELDS, LIMITS
from mlc.registry import available
from mlc.types import Drop, Limits, PassSpec, Target
from tests import report_sample

GOLDEN = Path(__file__).parent / "golden"
COMMANDS = ["compile", "quantize", "validate", "bench", "passes", "doctor"]


class Pipeline:
    """Notes what it is asked, prints as a user's module may, and answers with a report or an error."""

    def __init__(self):
        self.calls = []
        self.raised = None

    def compile(self, *arguments, progress, **keywords):
        return self._answer("compile", arguments, keywords, progress, report_sample.sample())

    def validate(self, *arguments, progress, **keywords):
        return self._answer("validate", arguments, keywords, progress, report_sample.validated())

    def bench(self, *arguments, progress, **keywords):
        return self._answer("bench", arguments, keywords, progress, report_sample.trials())

    def _answer(self, name, arguments, keywords, progress, answer):
        progress(f"stage {name}")
        sys.stdout.write("printed by the user's module\n")
        self.calls.append((arguments, keywords))
        if self.raised is not None:
            raise self.raised
        return answer


@pytest.fixture
def pipeline(monkeypatch):
    """Put a pipeline that notes what it is asked in the place of the real one."""
    stand_in = Pipeline()
    monkeypatch.setitem(sys.modules, "mlc.pipeline", stand_in)
    return stand_in


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *arguments):
    """Return exit code, stdout and stderr of one command."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


WRONG = [
    ("", "mlc needs a command", "there are: compile, quantize, validate, bench, run, inspect, report, passes, doctor"),
    ("compil", "there is no command 'compil'", "did you mean compile?"),
    ("--versio", "mlc has no option --versio", "did you mean --version?"),
    ("compile", "no model is given", "file.py:function"),
    ("compile a --dta x", "mlc compile has no option --dta", "did you mean --data"),
    ("compile a --calibration x", "mlc compile has no option --calibration", "--calibrate"),
    ("compile a --pas x", "mlc compile has no option --pas", "--pass"),
    ("bench a --second 3", "mlc bench has no option --second", "--seconds"),
    ("compile a -z", "mlc compile has no option -z", "there are: --input"),
    ("compile a b", "unexpected extra argument(s) (b)", "mlc compile --help"),
    ("compile a --data", "'--data' requires an argument", "--help"),
    ("compile a --force=1", "'--force' does not take a value", "--help"),
    ("compile a --seed 1 --seed 2", "--seed is given 2 times", "once"),
    ("compile a -o b --out c", "--out is given 2 times", "once"),
    ("compile a --seed x", "--seed: 'x' is not a whole number", "12"),
    ("compile a --seed -1", "--seed: the seed is -1, outside", "0 to"),
    ("compile a --opset 20.5", "--opset: '20.5' is not a whole number", "12"),
    ("compile a --opset 0", "--opset: the opset is 0", "1 to"),
    ("compile a --max-latency nan", "--max-latency: 'nan' is not a number", ""),
    ("compile a --max-latency 0", "--max-latency: the largest latency in ms is 0", "above 0"),
    ("compile a --min-speedup -2", "--min-speedup: the smallest speedup is -2", "above 0"),
    ("compile a --max-size inf", "--max-size: 'inf' is not a number", ""),
    ("compile a --max-drop 200%", "--max-drop: '200%' is too large", "100%"),
    ("compile a --max-drop=-1", "--max-drop: '-1' is negative", "no loss"),
    ("compile a --at batch=0", "--at: 'batch=0' leaves nothing", "1 or more"),
    ("compile a --input x=f32[1]", "--input: 'f32' is not a dtype", "float32"),
    ("compile a --input x=int8[n]", "--input: 'n' has no range", "n=1..64"),
    ("compile a --pass p:x", "--pass: the pass 'p:x' ends where", "p:x"),
    ("compile a --target cpu,threads=0", "--target: 'threads=0' is no thread", "leave threads out"),
    ("compile a --data=", "--data: the text is empty", ""),
    ("compile a --out=", "--out: the text is empty", ""),
    ("compile recipe.toml", "recipe.toml is a recipe, not a model", "--recipe recipe.toml"),
    ("compile --recipe nowhere.toml", "there is no recipe nowhere.toml", ""),
    ("quantize a", "no number format is given", "--plan FILE"),
    ("quantize a --to int4", "--to: there is no number format 'int4'", "did you mean int8 or int4-weights?"),
    ("quantize a --to float", "--to: there is no number format 'float'", "there are: int8"),
    ("validate --against a", "mlc validate needs MODEL", "mlc validate --help"),
    ("validate a --against=", "--against: the text is empty", ""),
    ("validate a", "mlc validate needs --against", "mlc validate --help"),
    ("validate a --against b --max-drop x", "--max-drop: the largest drop 'x' has 'x'", ""),
    ("bench", "mlc bench needs MODEL", "mlc bench --help"),
    ("bench a a", "a is given 2 times", "once"),
    ("bench a --seconds 0", "--seconds: the time to measure is 0", "above 0"),
    ("bench a --at 8", "--at: the sizes '8' has '8' where a size", "8"),
    ("passes int8-stat", "no pass is called 'int8-stat'", "did you mean int8-static or"),
    ("passes a b", "unexpected extra argument(s) (b)", "mlc passes --help"),
]


@pytest.mark.parametrize(("line", "message", "hint"), WRONG, ids=[line or "(nothing)" for line, *_ in WRONG])
def test_wrong_use(capsys, here, line, message, hint):
    code, out, err = run(capsys, *line.split())
    assert code == 2
    assert out == ""
    first, _, rest = err.partition("\n")
    assert first.startswith("mlc: error: ")
    assert message in first
    assert rest.startswith("mlc: hint: ") or not hint
    assert hint in rest
    assert list(here.iterdir()) == []


def test_the_caret_stands_below_its_place(capsys):
    _, _, err = run(capsys, "compile", "a", "--input", "x=flot32[1]")
    _, text, carets, nearest = err.splitlines()
    assert text[carets.index("^") : carets.rindex("^") + 1] == "flot32"
    assert nearest.strip().startswith("did you mean float32")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_golden_help(command, capsys, monkeypatch, request):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    code, out, err = run(capsys, *command.split(), "--help")
    assert (code, err) == (0, "")
    golden = GOLDEN / f"help{'_' if command else ''}{command}.txt"
    if request.config.getoption("--update-golden", default=False):
        golden.write_text(out, encoding="utf-8")
    assert out == golden.read_text(encoding="utf-8")


def test_short_help_is_the_same(capsys):
    assert run(capsys, "compile", "-h") == run(capsys, "compile", "--help")


def test_version(capsys):
    code, out, err = run(capsys, "--version")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"mlc \d+\.\d+\.\d+\n", out)


def test_results_go_to_stdout_and_nothing_else_does(capsys, pipeline):
    code, out, err = run(capsys, "compile", "model.onnx")
    assert code in {0, 1}
    assert report_sample.sample().first_line in out
    assert "printed by the user's module" not in out
    assert "printed by the user's module" in err
    assert "stage compile" not in err, "progress is for terminals"


def test_json_is_nothing_but_json(capsys, pipeline):
    for line in (["compile", "model.onnx"], ["validate", "m", "--against", "s"], ["bench", "m"]):
        _, out, _ = run(capsys, *line, "--json")
        assert json.loads(out)


def test_progress_on_a_terminal(capsys, pipeline, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    code, out, err = run(capsys, "compile", "model.onnx")
    assert code in {0, 1}
    assert "stage compile" in err
    assert "stage compile" not in out


def test_compile_hands_on_what_was_asked(capsys, pipeline):
    run(
        capsys, "compile", "m.py:make@w.safetensors", "--input", "x=float32[n=1..4,3]", "--input", "y=int64[n] in 0..9",
        "--pass", "none", "--pass", "int8-static:percent=99.9", "--target", "cpu:native,threads=2",
        "--calibrate", "c.npz", "--data", "d.npz", "--metric", "top1", "--max-drop", "1%", "--max-latency", "5",
        "--min-speedup", "1.5", "--max-size", "10", "--at", "n=2", "-o", "out", "--force", "--strict", "--seed", "3",
        "--opset", "21", "--trust", "--no-cache", "--task", "image-classification", "--strict-provider",
        "--portable", "--freeze",
    )  # fmt: skip
    (((recipe, out), keywords),) = pipeline.calls
    assert (out, keywords) == (Path("out"), {"force": True, "trust": True, "cache": False, "explain": False})
    assert recipe.source == "m.py:make@w.safetensors"
    assert recipe.inputs == parse_inputs(["x=float32[n=1..4,3]", "y=int64[n] in 0..9"])
    assert recipe.passes == (PassSpec("int8-static", (("percent", 99.9),)),)
    assert recipe.defaults is False
    assert recipe.target == Target(device="native", threads=2)
    assert (recipe.calibrate, recipe.data, recipe.metric) == ("c.npz", "d.npz", "top1")
    assert recipe.limits == Limits(Drop(0.01, relative=True), 5.0, 1.5, 10.0)
    assert (recipe.at, recipe.strict, recipe.seed, recipe.opset) == ({"n": 2}, True, 3, 21)
    assert (recipe.task, recipe.strict_provider, recipe.portable) == ("image-classification", True, True)
    assert recipe.freeze is True


def test_flags_override_the_recipe_file(capsys, pipeline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recipe.toml").write_text(
        'source = "a.onnx"\nseed = 1\nstrict = true\npasses = ["x"]\n[limits]\nmax_size = 3\n'
    )
    run(capsys, "compile", "--recipe", "recipe.toml")
    run(capsys, "compile", "b.onnx", "--recipe", "recipe.toml", "--seed", "2", "--pass", "y")
    first, second = (arguments[0] for arguments, _ in pipeline.calls)
    assert (first.source, first.seed, first.strict, first.passes) == ("a.onnx", 1, True, (PassSpec("x"),))
    assert (second.source, second.seed, second.strict, second.passes) == ("b.onnx", 2, True, (PassSpec("y"),))
    assert second.limits.max_size == 3.0


TAKEN_BACK = {
    "inputs": 'inputs = ["x=float32[n=1..4]"]', "keep_float": 'keep_float = ["a"]', "to": 'to = "int8"',
    "plan": 'plan = "p.toml"', "target": 'target = "cpu,threads=2"', "calibrate": 'calibrate = "c.npz"',
    "statistics": 'statistics = "s.npz"', "data": 'data = "python:0123"', "images": "[images]\nsize = 32",
    "metric": 'metric = "top1"', "at": 'at = "n=2"', "opset": "opset = 21", "seed": "seed = 7", "task": 'task = "t"',
    "max_drop": "[limits]\nmax_drop = 0.1", "max_latency": "[limits]\nmax_latency = 1",
    "min_speedup": "[limits]\nmin_speedup = 2", "max_size": "[limits]\nmax_size = 3",
    "strict": "strict = true", "strict_provider": "strict_provider = true", "portable": "portable = true",
    "freeze": "freeze = true",
}  # fmt: skip
"""What a recipe may hold beside a source and passes, each as a line of its file."""


def test_every_line_of_a_recipe_can_be_taken_back(capsys, pipeline, tmp_path):
    assert {*FIELDS, *LIMITS} - TAKEN_BACK.keys() == {"source", "passes"}
    path = tmp_path / "recipe.toml"
    for key, line in TAKEN_BACK.items():
        path.write_text(f'source = "m.onnx"\npasses = ["fp16"]\n{line}\n')
        back = [f"--no-{key.replace('_', '-')}"] if line.endswith("true") else [flag(key), "none"]
        assert run(capsys, "quantize", "--recipe", path, *back)[0] in {0, 1}
        (recipe, _), _ = pipeline.calls[-1]
        assert recipe == Recipe(recipe.source, passes=(PassSpec("fp16"),)), key
    assert len(pipeline.calls) == len(TAKEN_BACK)


def test_without_a_recipe_there_is_nothing_to_take_back(capsys, pipeline):
    code, _, err = run(capsys, "compile", "m.onnx", "--calibrate", "none")
    assert code == 2
    assert "--calibrate none takes back what a recipe says, and no --recipe is given" in err
    assert "./none" in err
    assert run(capsys, "compile", "m.onnx", "--strict", "--no-strict")[0] == 2
    assert pipeline.calls == []


def test_a_recipe_with_a_live_object_is_not_replayed(capsys, pipeline, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('source = "m.onnx"\ndata = "python:0123"\n')
    code, _, err = run(capsys, "compile", "--recipe", path)
    assert code == 2
    assert "data was a live Python object" in err
    assert "--data" in err
    assert pipeline.calls == []
    assert run(capsys, "compile", "--recipe", path, "--data", "d.npz")[0] in {0, 1}


def test_quantize_is_compile_to_a_format(capsys, pipeline):
    run(capsys, "quantize", "a.onnx", "--to", "int8", "--pass", "other")
    run(capsys, "quantize", "a.onnx", "--to", "int8", "--pass", "int8-static:percent=99.0")
    run(capsys, "quantize", "a.onnx", "--to", "int8", "--pass", "none")
    first, second, third = (arguments[0] for arguments, _ in pipeline.calls)
    assert [recipe.to for recipe in (first, second, third)] == ["int8"] * 3
    assert first.passes == (PassSpec("other"),)
    assert second.passes == (PassSpec("int8-static", (("percent", 99.0),)),)
    assert (third.passes, third.defaults) == ((), False)


@pytest.mark.parametrize(
    ("source", "out"),
    [
        ("models/resnet.onnx", "resnet.mlc"),
        ("models/vision.py:resnet18", "resnet18.mlc"),
        ("package.vision:resnet18@weights/w.safetensors", "resnet18.mlc"),
    ],
)
def test_the_default_place(capsys, pipeline, source, out):
    run(capsys, "compile", source)
    assert pipeline.calls[0][0][1] == Path(out)


def test_validate_hands_on_what_was_asked(capsys, pipeline):
    code, out, _ = run(
        capsys, "validate", "m.onnx", "--against", "s.py:f", "--data", "d.npz", "--metric", "top1", "--max-drop", "0.5"
    )
    ((arguments, keywords),) = pipeline.calls
    assert code in {0, 1}
    assert out
    assert arguments == (Path("m.onnx"), "s.py:f")
    assert keywords == {
        "data": "d.npz", "metric": "top1", "max_drop": Drop(0.5), "inputs": (), "target": Target(), "seed": 0,
        "images": None, "per_layer": False, "strict_provider": False, "task": None, "trust": False,
    }  # fmt: skip


def test_bench_hands_on_what_was_asked(capsys, pipeline):
    code, out, _ = run(capsys, "bench", "a", "b", "--target", "cpu,threads=1", "--at", "n=8", "--seconds", "2.5")
    ((arguments, keywords),) = pipeline.calls
    assert code == 0
    assert report_sample.trials()[0].candidate.name in out
    assert arguments == ([Path("a"), Path("b")],)
    assert keywords == {
        "target": Target(threads=1), "at": {"n": 8}, "seconds": 2.5, "strict_provider": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "code"),
    [(UsageError, 2), (SourceError, 3), (DataError, 3), (TargetError, 3), (OutputError, 3), (PassError, 4)],
)
def test_errors_are_one_sentence_a_hint_and_a_code(capsys, pipeline, error, code):
    pipeline.raised = error("the model is not there", "look again")
    found, out, err = run(capsys, "compile", "model.onnx")
    assert (found, out) == (code, "")
    assert err.endswith("mlc: error: the model is not there\nmlc: hint: look again\n")
    assert "Traceback" not in err


def test_debug_shows_the_traceback(capsys, pipeline):
    pipeline.raised = SourceError("the model is not there")
    code, _, err = run(capsys, "compile", "model.onnx", "--debug")
    assert code == 3
    assert "Traceback" in err
    assert err.endswith("mlc: error: the model is not there\n")


def test_an_unknown_exception_keeps_its_traceback(capsys, pipeline):
    pipeline.raised = ZeroDivisionError("something of ours")
    code, _, err = run(capsys, "compile", "model.onnx")
    assert code == 70
    assert "ZeroDivisionError: something of ours" in err
    assert "Traceback" in err
    assert "mlc doctor" in err


def test_a_name_that_is_no_text(capsys, pipeline):
    for line in (
        ["compile", "\udcff.onnx"],
        ["compile", "m.onnx", "-o", "\udcff"],
        ["compile", "m.onnx", "--data", "\0"],
    ):
        code, _, err = run(capsys, *line)
        assert code == 2
        assert "is not text" in err
    assert pipeline.calls == []


def test_an_interrupt(capsys, pipeline):
    pipeline.raised = KeyboardInterrupt()
    code, out, err = run(capsys, "compile", "model.onnx")
    assert (code, out) == (130, "")
    assert err.endswith("mlc: error: interrupted\n")
    assert "Traceback" not in err


@pytest.mark.parametrize("line", [["--help"], ["compile", "--help"], ["--version"]])
def test_a_reader_that_has_gone_is_no_error(line):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "mlc", *line], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert done.stderr == ""


def test_python_m_mlc_runs_the_same(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mlc", "compil"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean compile?" in done.stderr


def test_passes_lists_every_pass(capsys):
    code, out, err = run(capsys, "passes")
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line for line in out.splitlines() if line}
    for name in available():
        assert name in lines
    assert re.search(r"int8-static +lossy +[`A-Z]", lines["int8-static"])
    assert re.search(r"fold-layer-scale +reassociates +default +\S", lines["fold-layer-scale"])


def test_passes_describes_one(capsys):
    code, out, _ = run(capsys, "passes", "int8-static")
    assert code == 0
    assert re.search(r"exactness +lossy, floor \d+ dB", out)
    assert re.search(r"default +no", out)
    assert re.search(r"opset +\d+ or newer", out)
    assert re.search(r"method +min-max or percentile or mse or entropy +min-max", out)
    assert re.search(r"percent +float +\d+\.\d+", out)
    assert "mlc-toolchain" in out


def test_passes_describes_a_tolerance(capsys):
    _, out, _ = run(capsys, "passes", "fold-layer-scale")
    assert "reassociates, tolerance 1e-05 of the rms" in out
    assert re.search(r"default +yes", out)
    assert re.search(r"options +none", out)


def test_a_pass_that_cannot_be_loaded_is_listed_with_the_reason(capsys, monkeypatch):
    import mlc.describe_passes
    from mlc.registry import pass_class

    def broken(name):
        if name == "int8-static":
            raise PassError("loading the pass int8-static raised ImportError: no torch")
        return pass_class(name)

    monkeypatch.setattr(mlc.describe_passes, "pass_class", broken)
    code, out, _ = run(capsys, "passes")
    assert code == 0
    assert re.search(r"int8-static +unusable +loading the pass int8-static raised ImportError", out)
    assert "fold-constants" in out


def test_every_error_of_ours_has_an_exit_code():
    assert {error.exit_code for error in MlcError.__subclasses__()} == {2, 3, 4}


EXPLAINED = """<ir_version: 10, opset_import: ["":20]> g (float[n,3] x) => (float[n,3] y, float[n,3] z, float[n,3] r)
    { a = Reciprocal(x) y = Mul(x, a) r = Reciprocal(x) z = Mul(x, r) }"""


def test_a_pass_is_explained_on_a_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(EXPLAINED), "net.onnx")
    before = Path("net.onnx").read_bytes()
    assert run(capsys, "passes", "reciprocal-to-div", "--explain", "net.onnx")[:2] == (
        0, "reciprocal-to-div on net.onnx: 1 site, 1 refused\n  y\n  z  refused: r is a graph output\n"
    )  # fmt: skip
    assert "fuse-rms-norm on net.onnx, raised from opset 20 to 23, which mlc compile does where that is right" in run(
        capsys, "passes", "fuse-rms-norm", "--explain", "net.onnx"
    )[1]  # fmt: skip
    assert Path("net.onnx").read_bytes() == before


CONVERTED = """<ir_version: 10, opset_import: ["":20]> g (float[n,3] x) => (float[n,3] y)
    { a = Reciprocal(x) b = Cast<to = 1>(a) y = Mul(x, b) }"""


def test_a_pass_is_explained_behind_those_that_come_before_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(CONVERTED), "net.onnx")
    assert run(capsys, "passes", "reciprocal-to-div", "--explain", "net.onnx")[:2] == (
        0, "reciprocal-to-div on net.onnx, behind eliminate-casts and eliminate-dead-code: 1 site, 0 refused\n  y\n"
    )  # fmt: skip
    assert "fold-constants on net.onnx: 0 sites" in run(capsys, "passes", "fold-constants", "--explain", "net.onnx")[1]


LOSSY = """<ir_version: 10, opset_import: ["":21]> g (float[n,2] x) => (float[n,2] y) <float[2,2] w = {1,2,3,4}>
    { y = MatMul(x, w) }"""


def test_a_pass_that_loses_something_without_looking_at_data_is_explained_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(LOSSY), "net.onnx")
    assert run(capsys, "passes", "int8-weights", "--explain", "net.onnx")[:2] == (
        0, "int8-weights on net.onnx: 0 sites, 1 refused\n  y  refused: its 2 rows are less than a block of 32\n"
    )  # fmt: skip


RECURRENT = """<ir_version: 10, opset_import: ["":21]> g (float[5,n,4] x) => (float[1,n,6] h)
    { , h = LSTM<hidden_size = 6>(x, w, r) }"""


def test_a_pass_is_explained_with_the_kernels_of_the_cpu(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = onnx.parser.parse_model(RECURRENT)
    for name, width in (("w", 4), ("r", 6)):
        array = np.random.default_rng(0).normal(size=(1, 24, width)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, "net.onnx")
    assert "1 site, 0 refused" in run(capsys, "passes", "int8-dynamic", "--explain", "net.onnx")[1]


@pytest.mark.parametrize("given", ["raises", "returns nothing"])
def test_a_pass_of_somebody_else_that_fails_is_a_sentence(tmp_path, monkeypatch, capsys, given):
    def apply(_self, _model, _context):
        if given == "raises":
            raise ZeroDivisionError("mine")

    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(EXPLAINED), "net.onnx")
    monkeypatch.setattr("passes.reciprocal_to_div.ReciprocalToDiv.apply", apply)
    code, out, err = run(capsys, "passes", "reciprocal-to-div", "--explain", "net.onnx")
    assert (code, out) == (4, "")
    assert "the pass reciprocal-to-div raised" in err


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("--explain net.onnx", 2, "--explain needs a pass"),
        ("int8-static --explain net.onnx", 2, "the pass int8-static needs data to say what it does"),
        ("fuse-gelu --explain nowhere.onnx", 3, "the model nowhere.onnx does not exist"),
        ("fuse-glu --explain net.onnx", 2, "no pass is called 'fuse-glu'"),
    ],
)
def test_what_cannot_be_explained(capsys, line, code, said):
    found, out, err = run(capsys, "passes", *line.split())
    assert (found, out) == (code, "")
    assert said in err
