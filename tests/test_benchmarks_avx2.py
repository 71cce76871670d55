"""What stands for CPUID where a processor's wider kernels are hidden from the runtimes."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import avx2

SOURCE = """
#include <cpuid.h>
unsigned answer(unsigned leaf, unsigned subleaf, unsigned which) {
    unsigned found[4];
    __cpuid_count(leaf, subleaf, found[0], found[1], found[2], found[3]);
    return found[which];
}
"""

ASK = """
import ctypes, sys
for path in sys.argv[1:]:
    library = ctypes.CDLL(path)
    print(*(library.answer(leaf, 0, which) & 0xFFFFFFFF for leaf in (0, 7) for which in range(4)))
"""

VNNI, AVX2, AVX512F = 1 << 11, 1 << 5, 1 << 16

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64" or not (shutil.which("gcc") and shutil.which("objdump")),
    reason="needs Linux on x86-64, gcc and objdump",
)


def asked(*libraries: Path, preload: Path) -> list[list[int]]:
    environment = {**os.environ, "LD_PRELOAD": f"{preload}"}
    command = [sys.executable, "-c", ASK, *map(str, libraries)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return [[int(number) for number in line.split()] for line in said.splitlines()]


def test_wider_kernels_are_hidden_and_nothing_else(tmp_path):
    (tmp_path / "asking.c").write_text(SOURCE)
    own = avx2.shared_library(tmp_path / "asking.c", tmp_path / "own.so")
    copy = Path(shutil.copy(own, tmp_path / "copy.so"))
    assert avx2.replace_cpuid(copy) == 1
    answers = avx2.shared_library(Path(avx2.__file__).with_suffix(".c"), tmp_path / avx2.LIBRARY)
    real, seen = asked(own, copy, preload=answers)
    assert seen[:4] == real[:4], "the processor's name is its own"
    assert seen[5] & AVX2 == real[5] & AVX2
    assert not seen[5] & AVX512F
    assert not seen[6] & VNNI
    assert all(before & after == after for before, after in zip(real, seen, strict=True)), "no bit is added"


def test_a_library_without_cpuid_stays_as_it_is(tmp_path):
    (tmp_path / "plain.c").write_text("int two(void) { return 2; }")
    plain = avx2.shared_library(tmp_path / "plain.c", tmp_path / "plain.so")
    before = plain.read_bytes()
    assert avx2.replace_cpuid(plain) == 0
    assert plain.read_bytes() == before
