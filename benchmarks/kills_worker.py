"""The process that ``benchmarks.kills`` kills: the command line, with speed measured in short."""

from __future__ import annotations

import sys

from benchmarks.rewriting_worker import measure_shortly
from mlc.cli import main

if __name__ == "__main__":
    measure_shortly()
    sys.exit(main())
