"""The machine is described as it is, without importing what it describes."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys

from mlc.machine import installed, machine


def test_the_machine_is_described():
    found = machine()
    assert found.cpu
    assert found.cores in range(1, (os.cpu_count() or 1) + 1)
    assert found.memory_gb > 0.1
    assert found.python == platform.python_version()
    assert platform.system() in found.system
    assert found.versions["onnxruntime"] == importlib.metadata.version("onnxruntime")
    assert next(iter(found.versions)) == "mlc-toolchain"


def test_a_package_that_is_not_there_has_no_version():
    assert installed("no-such-package-at-all") is None


def test_nothing_heavy_is_imported():
    code = "import sys, mlc.machine; mlc.machine.machine(); print({'torch', 'onnx', 'onnxruntime'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
