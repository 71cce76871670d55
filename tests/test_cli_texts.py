"""What the command line says, word for word: errors of use, progress, and what the shell completes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlc.cli import main

LINEAR = '<ir_version: 8, opset_import: ["" : 17]> net (float[n,6] x) => (float[n,6] y) { y = Relu(x) }'

ERRORS = [
    "",
    "compil",
    "--verson",
    "compile",
    "compile nowhere.py:model",
    "compile net.py",
    "compile net.py:modle",
    "compile net.py:model@nowhere.safetensors",
    "compile net.onx",
    "compile net.onnx",
    "compile net.onnx --input x=f32[1,6]",
    "compile net.onnx --input z=float32[1,6]",
    "compile net.onnx --input x=float32[n=1..4,7]",
    "compile net.onnx --input x=float32[n=4..1,6]",
    "compile net.onnx --input x=float32[n=1..4,6] --pass fold-constnts",
    "compile net.onnx --input x=float32[n=1..4,6] --pass fold-constants:limt=3",
    "compile net.onnx --input x=float32[n=1..4,6] --target cud",
    "compile net.onnx --input x=float32[n=1..4,6] --calibrate c.npz",
    "compile net.onnx --input x=float32[n=1..4,6] --metric top1",
    "compile net.onnx --input x=float32[n=1..4,6] --max-drop 1%",
    "compile net.onnx --input x=float32[n=1..4,6] --data nowhere.npz",
    "compile net.onnx --input x=float32[n=1..4,6] --at m=2",
    "compile net.onnx --input x=float32[n=1..4,6] --opset 12",
    "compile net.onnx --input x=float32[n=1..4,6] -o taken",
    "compile net.onnx --seed 1 --seed 2",
    "compile net.onnx --seed x",
    "compile net.onnx --max-drop -1",
    "compile net.onnx --max-latncy 3",
    "compile net.onnx -q -v",
    "compile --recipe nowhere.toml",
    "compile --recipe wrong.toml",
    "quantize net.onnx",
    "quantize net.onnx --to int3",
    "quantize net.onnx --to int8-static --input x=float32[n=1..4,6]",
    "quantize net.onnx --plan nowhere.toml",
    "quantize net.onnx --plan p.toml --to int8",
    "compile net.onnx --keep-float y",
    "validate net.onnx",
    "validate nowhere.onnx --against net.onnx",
    "bench",
    "bench nowhere.onnx",
    "bench net.onnx net.onnx",
    "bench net.onnx --seconds 0",
    "passes fold-constnts",
]


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    import onnx

    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(LINEAR), tmp_path / "net.onnx")
    (tmp_path / "net.py").write_text("from torch import nn\n\n\ndef model():\n    return nn.Linear(6, 6)\n")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    (tmp_path / "wrong.toml").write_text('source = "net.onnx"\nsed = 3\n')


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_a_full_disk_under_stdout_is_a_sentence():
    with Path("/dev/full").open("w") as full:
        line = [sys.executable, "-m", "mlc", "passes"]
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("mlc: error: the result cannot be written to stdout: No space left on device")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.usefixtures("folder")
def test_every_error_is_one_sentence_and_a_hint_as_it_was(capsys, golden):
    here = Path.cwd()
    texts = []
    for line in ERRORS:
        code = main(line.split())
        out, err = capsys.readouterr()
        assert out == "", line
        assert code in {2, 3}, line
        assert (err.count("mlc: error: "), err.count("mlc: hint: ") <= 1) == (1, True), line
        texts.append(f"$ mlc {line}\n{err.replace(str(here), '.')}exit {code}\n")
    golden("errors.txt", "\n".join(texts))


def test_steps_are_lines_with_their_time_where_asked(capsys):
    assert main(["doctor", "--verbose"]) in {0, 1}
    lines = capsys.readouterr().err.splitlines()
    assert any(line.split()[1:] == ["s", "reading", "versions"] for line in lines)


def test_nothing_moves_where_it_is_quiet(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["doctor", "--quiet"]) in {0, 1}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("mlc qu", "quantize"),
        ("mlc compile --max-d", "--max-drop"),
        ("mlc quantize --to ", "int8"),
        ("mlc compile --pass fold-b", "fold-batch-norm"),
        ("mlc compile --metric to", "top1"),
        ("mlc compile --target cp", "cpu"),
        ("mlc passes int8", "int8-static"),
    ],
)
def test_the_shell_completes_commands_options_and_values(words, offered, capsys, monkeypatch):
    monkeypatch.setenv("_MLC_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    assert main([]) == 0
    assert offered in capsys.readouterr().out.split()
