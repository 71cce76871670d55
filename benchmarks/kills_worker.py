"""The process that ``benchmarks.kills`` kills: the command line, with speed measured in short."""

from __future__ import annotations

import sys

from benchmarks.rewriting_worker import SHORT
from mlc.cli import main
from mlc.measuring import latency, peak

if __name__ == "__main__":
    for name, value in SHORT.items():
        setattr(latency, name, value)
    peak.SIZES = peak.SIZES[:1]
    sys.exit(main())
