"""Where figures are measured: the CPU, its memory, the system and the versions that take part."""

from __future__ import annotations

import contextlib
import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mlc.types import Machine

PEAK, RESIDENT = "VmHWM", "VmRSS"
"""What Linux calls the most memory that a process had at once, and what it has now."""

CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says what a container may use."""

BUILDS = ("onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-qnn", "onnxruntime-openvino")
"""Distributions that take the place of onnxruntime: they bring the same package, so no two go together."""

RUNTIMES = (*BUILDS, "openvino", "onnxruntime-ep-openvino", "onnxruntime-ep-webgpu")
"""Distributions that models run on beside onnxruntime, where they are installed."""

PACKAGES = ("mlc-toolchain", "torch", "onnx", "onnxruntime", "onnx-ir", "onnxscript", "numpy", *RUNTIMES)


@cache
def machine() -> Machine:
    """Return this machine; cores are those that this process may use, memory is in GB of 10**9 bytes."""
    import psutil

    return Machine(
        cpu=cpu_name(),
        cores=cores(),
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        versions={package: found for package in PACKAGES if (found := installed(package))},
    )


@cache
def cpu_info() -> dict[str, object]:
    """Return what py-cpuinfo found: ``brand_raw``, ``flags`` and more. It takes about a second."""
    import cpuinfo

    return dict(cpuinfo.get_cpu_info())


def cpu_flags() -> set[str]:
    """Return the CPU's feature flags as the system names them."""
    flags = cpu_info().get("flags")
    return {str(flag) for flag in flags} if isinstance(flags, list) else set()


def cpu_name() -> str:
    """Return the CPU's name as its maker gives it."""
    return str(cpu_info().get("brand_raw") or platform.processor() or platform.machine())


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    import psutil

    allowed = getattr(psutil.Process(), "cpu_affinity", None)  # Windows has it, macOS has not
    return len(allowed()) if allowed is not None else os.cpu_count() or 1


def memory_bytes() -> int:
    """Return the bytes of memory that this process may use: the machine's, or what its container is limited to."""
    import psutil

    memory = int(psutil.virtual_memory().total)
    for file in CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            memory = min(memory, int(Path(file).read_text(encoding="ascii")))
    return memory


def process_bytes(key: str) -> int:
    """Return a figure of this process's memory from Linux, ``PEAK`` or ``RESIDENT``; 0 elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)


def reset_peak() -> int:
    """Let the peak of this process's memory begin anew where Linux allows it; return the bytes from which it counts."""
    try:
        Path("/proc/self/clear_refs").write_bytes(b"5")
    except OSError:
        return process_bytes(PEAK)
    return process_bytes(RESIDENT)


def installed(package: str) -> str | None:
    """Return the version of a distribution, without importing it; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
