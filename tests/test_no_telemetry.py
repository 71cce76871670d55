"""Nothing is reported to anyone: the runtime's own telemetry is off before it is loaded, in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

LINEAR = Path(__file__).parents[1] / "sample_models" / "linear" / "model.py"
TRACES = {".ses", "deviceid"}
"""Files in which the runtime keeps the identity that it reports under: a session's and a device's."""


def test_no_process_leaves_a_trace_of_telemetry(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    code = "import tests.conftest, pytest; patch = pytest.MonkeyPatch(); tests.conftest.measure_quickly(patch); "
    code += "from mlc.cli import main; import sys; sys.exit(main())"
    command = [sys.executable, "-c", code, "compile", f"{LINEAR}:model", "-o", str(tmp_path / "out")]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert [path for path in tmp_path.rglob("*") if path.name in TRACES] == []
