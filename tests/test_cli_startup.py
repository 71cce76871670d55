"""What the command line imports: help, the version and errors of use cost no more than the parser."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import onnx
import pytest

HEAVY = [
    "torch", "onnx", "onnxruntime", "onnx_ir", "onnxscript", "pydantic", "numpy", "jinja2", "safetensors", "pygal",
    "rich", "tomli_w", "psutil", "cpuinfo", "passes",
]  # fmt: skip

LIGHT = [
    ["--help"],
    ["--version"],
    [],
    ["compil"],
    ["compile", "--help"],
    ["quantize", "--help"],
    ["compile", "--dta", "x"],
    ["compile", "a", "--seed", "x"],
    ["compile", "a", "--seed", "1", "--seed", "2"],
    ["compile", "a", "--input", "x=f32[1]"],
    ["compile", "a", "--max-drop", "-1"],
    ["compile", "a", "--pass", "p:"],
    ["compile", "--recipe", "nowhere.toml"],
    ["quantize", "a"],
    ["quantize", "a", "--to", "int4"],
    ["validate", "a"],
    ["bench"],
    ["bench", "a", "--seconds", "x"],
]

SCRIPT = """
import json, sys
from mlc.cli import main
lines, heavy = json.loads(sys.argv[1])
for line in lines:
    main(line)
    found = sorted(set(heavy) & set(sys.modules))
    if found:
        sys.exit(f"{line} imports {found}")
"""

WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnxscript"}:
            sys.exit(f"{name} was imported")
sys.meta_path.insert(0, Blocked())
from mlc.cli import main
sys.exit(main(sys.argv[1:]))
"""


def python(script, *arguments):
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)


def test_help_and_errors_of_use_import_nothing_heavy():
    done = python(SCRIPT, json.dumps([LIGHT, HEAVY]))
    assert done.returncode == 0, done.stderr[-2000:]


def test_import_mlc_is_cheap():
    done = python("import sys, mlc; print(*sys.modules)")
    assert done.returncode == 0
    assert set(done.stdout.split()) & {*HEAVY, "typer"} == set()


@pytest.mark.needs_onnxruntime
def test_bench_needs_no_torch(tmp_path):
    """A torch that cannot be imported, by the processes that measure neither."""
    (tmp_path / "poisoned" / "torch").mkdir(parents=True)
    (tmp_path / "poisoned" / "torch" / "__init__.py").write_text("raise ImportError('torch was imported')")
    text = '<ir_version: 8, opset_import: ["" : 17]> square (float[n,2] x) => (float[n,2] y) { y = Add(x, x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "square.onnx")
    done = subprocess.run(
        [sys.executable, "-m", "mlc", "bench", "square.onnx", "--at", "n=3", "--seconds", "0.2"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "poisoned")}, cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "square.onnx" in done.stdout
    assert "at n=3" in done.stdout


def test_passes_needs_no_torch():
    done = python(WITHOUT_TORCH.replace(', "onnxscript"', ""), "passes")
    assert done.returncode == 0, done.stderr[-2000:]
