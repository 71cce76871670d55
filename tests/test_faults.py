"""Interrupted at any stage, out of disk, or killed: what was there stays, and nothing half-written is left."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import kills
from mlc.cli import main
from mlc.measuring import agreement as measuring
from mlc.pipeline import run as pipeline_run

ROOT = Path(__file__).parents[1]
LINEAR = ROOT / "sample_models" / "linear"
QUANTIZE = [
    "quantize", f"{LINEAR / 'model.py'}:model", "--to", "int8", "--input", "x=float32[batch=1..4,6]",
    "--calibrate", str(LINEAR / "calibration.npz"), "--data", str(LINEAR / "evaluation.npz"), "-o", "out", "--force",
]  # fmt: skip
SHORT = "from benchmarks.rewriting_worker import measure_shortly; measure_shortly()"
"""What lets a process measure in short."""

STAGES = ["load", "read data", "run the original", "export", "rewrite", "quantize", "measure", "write"]


@pytest.fixture
def old(tmp_path, monkeypatch):
    """An artifact that is there already; the folder that torch itself leaves among temporary files has its place."""
    torchs_own = tmp_path.parent / "torchinductor"
    torchs_own.mkdir(exist_ok=True)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(torchs_own))
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    Path("out", "manifest.json").write_text("{}")
    Path("out", "model.onnx").write_text("old")
    return tmp_path


def assert_old_stays(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["out"]
    assert Path(folder, "out", "model.onnx").read_text() == "old"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("stage", "where"), [*((stage, "begin") for stage in STAGES), ("measure", "end")])
def test_an_interrupt_in_every_stage(old, capsys, monkeypatch, stage, where):
    timed = pipeline_run.Run.stage

    @contextmanager
    def interrupted(self, name):
        with timed(self, name):
            if name == stage and where == "begin":
                raise KeyboardInterrupt
            yield
            if name == stage:
                raise KeyboardInterrupt

    monkeypatch.setattr(pipeline_run.Run, "stage", interrupted)
    assert main(QUANTIZE) == 130
    assert "interrupted" in capsys.readouterr().err
    assert_old_stays(old)


def command_line(old, code=""):
    """Run the command line in a process of its own, after ``code``."""
    script = f"import sys; {code}\nfrom mlc.cli import main\nsys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(old.parent)}
    return subprocess.Popen(
        [sys.executable, "-c", script, *QUANTIZE], stderr=subprocess.PIPE, text=True, env=environment
    )


def test_what_is_not_finite_on_the_data_is_not_written(old, capsys, monkeypatch, quick):
    """The verified sizes cannot show it: it takes the values of one sample."""
    real = measuring.Agreement.result

    def spoilt(self):
        return dataclasses.replace(real(self), nonfinite=3)

    monkeypatch.setattr(measuring.Agreement, "result", spoilt)
    assert main(QUANTIZE) != 0
    errors = capsys.readouterr().err
    assert "on the evaluation data 3 values of" in errors
    assert "nothing was written" in errors
    assert_old_stays(old)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_an_interrupt_from_the_keyboard(old):
    before = set(old.parent.iterdir())
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a background job ignores it
    process = command_line(old, heeding)
    time.sleep(6)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert_old_stays(old)
    assert set(old.parent.iterdir()) == before


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_disk_that_is_full(old):
    """A limit on the size of files fails like a full disk does, wherever the first large file is written."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))"
    process = command_line(old, f"{limit}\n{SHORT}")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 3, errors
    assert "Traceback" not in errors
    assert errors.count("mlc: error:") == 1
    assert_old_stays(old)


def test_a_disk_that_fills_up_at_the_end(old, capsys, monkeypatch, quick):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlc.pipeline.shipping.write_manifest", full)
    assert main(QUANTIZE) == 3
    assert "No space left on device" in capsys.readouterr().err
    assert_old_stays(old)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_killed_once_after_each_step_that_matters(monkeypatch):
    """One kill while the export is kept, one while the artifact is put in its place."""
    monkeypatch.setattr(kills, "TRIGGERS", {name: wait for name, wait in kills.TRIGGERS.items() if name})
    monkeypatch.chdir(Path(__file__).parents[1])
    measured = kills.measure(quick=True, progress=lambda _text: None)
    assert [claim.outcome for claim in kills.summary(measured).claims] == ["met"] * 3
