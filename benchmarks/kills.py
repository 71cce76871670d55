"""Runs of ``mlc compile --force`` killed at random moments: the old artifact or the new one stays, whole."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import MET, MISSED, ROOT, Claim, Progress, Result, Summary, Table, result, run
from mlc.errors import MlcError
from mlc.exporting.cache import Cache
from mlc.manifest import digest, locate

WORKER = "benchmarks.kills_worker"
KILLS = 200
TRIGGERS = {"": 1.05, "export": 1.05, "write": 1.5}
"""After which step the clock starts (none: at the start), and the longest wait, over what follows in a whole run."""

MODELS = """
import torch
from torch import nn

def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 8))

def one():
    return network(1)

def two():
    return network(2)
"""


class Bench:
    """A folder with two models, an artifact that is replaced again and again, and a cache of exports."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.cache = folder, folder / "out", Cache(folder / "cache")
        (folder / "models.py").write_text(MODELS, encoding="utf-8")
        self.environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "MLC_CACHE_DIR": str(self.cache.folder),
            "TMPDIR": str(folder / "tmp"),
        }  # fmt: skip
        (folder / "tmp").mkdir()

    def start(self, name: str, out: Path) -> subprocess.Popen[str]:
        """Start a compilation in a process group of its own."""
        asked = ["compile", f"models.py:{name}", "--input", "input=float32[batch=1..8,64]", "-o", str(out), "--force"]
        return subprocess.Popen(
            [sys.executable, "-m", WORKER, *asked, "-v"], cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def whole(self, name: str, out: Path) -> dict[str, float]:
        """Compile to the end; return the seconds that were left after each step that a kill may wait for."""
        start = time.perf_counter()
        seen = {"": start}
        with self.start(name, out) as process:
            assert process.stderr is not None
            for line in process.stderr:
                seen[line.split()[-1]] = time.perf_counter()
        if process.returncode:
            raise RuntimeError(f"a whole run ended with exit code {process.returncode}")
        end = time.perf_counter()
        return {trigger: end - seen[trigger] for trigger in TRIGGERS}

    def kill(self, name: str, trigger: str, wait: float) -> bool:
        """Start a run and kill it ``wait`` seconds after a step began; returns whether it had ended before."""
        process = self.start(name, self.out)
        assert process.stderr is not None
        if trigger:
            next((line for line in process.stderr if line.split()[-1:] == [trigger]), None)
        time.sleep(wait)
        ended = process.poll() is not None
        if not ended:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return ended

    def stands(self) -> str:
        """Return the digest of the model that stands there; raises MlcError where its manifest says another."""
        return digest(locate(self.out).path)

    def state(self) -> tuple[str, int]:
        """Return the digest of what stands there, or what is wrong with it, and how many exports are damaged."""
        damaged = sum(self.cache.find(entry.folder.name) is None for entry in self.cache.entries())
        if not self.out.exists():
            return "nothing is there", damaged
        try:
            return self.stands(), damaged
        except MlcError as error:
            return error.message.replace(str(self.folder), ""), damaged


def measure(quick: bool, progress: Progress) -> Result:
    """Kill runs and look at what is there after each."""
    kills = len(TRIGGERS) if quick else KILLS
    draw = random.Random(0)  # noqa: S311
    with tempfile.TemporaryDirectory(prefix="mlc-kills-") as name:
        bench = Bench(Path(name))
        left = bench.whole("one", bench.out)
        first = state = bench.stands()
        rounds: list[dict[str, Any]] = []
        for number in range(kills):
            asked = "two" if state == first else "one"
            trigger = list(TRIGGERS)[number % len(TRIGGERS)]
            wait = draw.uniform(0, TRIGGERS[trigger] * left[trigger])
            if trigger == "export":
                shutil.rmtree(bench.cache.folder, ignore_errors=True)
            ended = bench.kill(asked, trigger, wait)
            state, damaged = bench.state()
            progress(f"{number + 1} of {kills}: killed {wait:.2f} s after {trigger or 'the start'}: {state}")
            rounds.append({"after": trigger, "seconds": wait, "ended": ended, "asked": asked, "there": state,
                           "damaged": damaged})  # fmt: skip
        bench.whole("two", bench.out)
        last = bench.stands()
        named = {last: "two", first: "one"}
        for one in rounds:
            one["there"] = named.get(one["there"], one["there"])
        final = {"there": named[last], "left": leftovers(bench.folder), "exports": len(bench.cache.entries())}
    return result("kills", {"kills": kills, "seed": 0}, rounds=rounds, final=final)


def leftovers(folder: Path) -> list[str]:
    """Return what killed runs left beside the artifact and in the cache after a whole run."""
    return sorted(path.name for place in (folder, folder / "cache") for path in place.glob(".*mlc-*"))


def summary(measured: Result) -> Summary:
    """Count what was there after each kill."""
    rounds: list[dict[str, Any]] = measured["rounds"]
    whole = [one for one in rounds if one["there"] in {"one", "two"}]
    damaged = sum(one["damaged"] for one in rounds)
    final = measured["final"]
    works = final["there"] == "two" and not final["left"] and final["exports"] > 0
    claims = (
        Claim("the old artifact or the new one, whole, after every kill", f"{len(whole)} of {len(rounds)}",
              MET if len(whole) == len(rounds) else MISSED),
        Claim("no damaged export in the cache", f"{damaged} damaged", MISSED if damaged else MET),
        Claim("the next whole run works and leaves nothing of the killed ones", f"left over: {len(final['left'])}",
              MET if works else MISSED),
    )  # fmt: skip
    rows = []
    for trigger in TRIGGERS:
        some = [one for one in rounds if one["after"] == trigger]
        new = sum(one["there"] == one["asked"] for one in some)
        ended = sum(one["ended"] for one in some)
        rows.append((trigger or "the start", str(len(some)), str(len(some) - new), str(new), str(ended)))
    columns = ("killed after", "runs", "old artifact", "new artifact", "of them ended before")
    return Summary(claims, (Table("What stood there", columns, tuple(rows)),))


if __name__ == "__main__":
    run(measure, summary)
