"""Run a benchmark with kernels for AVX2 on a processor that has more.

    python -m benchmarks.avx2 benchmarks.quantization

The runtimes are copied, and each CPUID instruction of the copy becomes an undefined one; a library answers those as
the processor does, but for AVX-512, VNNI and AMX. This is for processors and systems that cannot fault on CPUID
itself. The real kernels run, at their real speed: what they lose and how long they take is measured. Needs Linux on
x86-64, gcc and objdump.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import mlc.machine
import mlc.runtimes.cpu
from mlc.machine import cpu_flags

RUNTIMES = ("onnxruntime", "onnxruntime_ep_openvino")
LIBRARY = "avx2.so"
CPUID, UNDEFINED = b"\x0f\xa2", b"\x0f\x0b"

INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+cpuid\s*$", re.MULTILINE)
SECTION = re.compile(r"^\s*\d+ \S+\s+([0-9a-f]+)\s+([0-9a-f]+)\s+[0-9a-f]+\s+([0-9a-f]+)", re.MULTILINE)
"""Of objdump's table: a section's size, the address where it is loaded, and where it is in the file."""

HIDDEN = "MLC_BENCHMARKS_AVX2"
"""Set in the processes from which all else is hidden."""

WIDER = ("avx512", "avx_vnni", "avxvnni", "amx")
"""What the flags of processors that have more begin with."""


def main(arguments: list[str]) -> int:
    """Run a module with its arguments on copies of the runtimes; return its exit status."""
    if is_hidden():
        flags = {flag for flag in cpu_flags() if not flag.startswith(WIDER)}
        mlc.machine.cpu_flags = mlc.runtimes.cpu.cpu_flags = lambda: flags
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        return 0
    with tempfile.TemporaryDirectory(prefix="mlc-avx2-") as name:
        library = build(Path(name))
        paths = os.pathsep.join(filter(None, (name, os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, HIDDEN: "1", "LD_PRELOAD": f"{library}", "PYTHONPATH": paths}
        command = [sys.executable, "-m", "benchmarks.avx2", *arguments]
        return subprocess.run(command, env=environment, check=False).returncode


def is_hidden() -> bool:
    """Whether this process runs on such copies."""
    return HIDDEN in os.environ


def build(folder: Path) -> Path:
    """Copy each runtime that is installed into a folder; return the library beside them that answers."""
    library = shared_library(Path(__file__).with_suffix(".c"), folder / LIBRARY)
    for spec in filter(None, map(find_spec, RUNTIMES)):
        copy = folder / spec.name
        shutil.copytree(Path(f"{spec.origin}").parent, copy)
        for file in sorted(path for path in copy.rglob("*.so*") if not path.is_symlink()):
            if count := replace_cpuid(file):
                print(f"{file.relative_to(folder)}: {count} CPUID instructions", flush=True)
    return library


def shared_library(source: Path, place: Path) -> Path:
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", place, source], check=True)
    return place


def replace_cpuid(library: Path) -> int:
    """Make every CPUID of a library an undefined instruction; return how many there were."""
    code = bytearray(library.read_bytes())
    count = 0
    for place in places(library):
        if code[place : place + len(CPUID)] != CPUID:
            raise SystemExit(f"{library.name} has no CPUID where objdump saw one, at {place:#x}")
        code[place : place + len(CPUID)] = UNDEFINED
        count += 1
    if count:
        library.write_bytes(code)
    return count


def places(library: Path) -> Iterator[int]:
    """Yield where in the file each CPUID instruction is."""
    sections = [tuple(int(number, 16) for number in found) for found in SECTION.findall(objdump("-h", library))]
    for found in INSTRUCTION.findall(objdump("-d", "--no-show-raw-insn", library)):
        address = int(found, 16)
        for size, start, offset in sections:
            if start <= address < start + size:
                yield offset + address - start
                break


def objdump(*arguments: str | Path) -> str:
    return subprocess.run(["objdump", *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
