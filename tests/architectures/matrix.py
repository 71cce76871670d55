"""Which architectures export: each one in a process of its own with a time limit, one row of a table each.

``python -m tests.architectures.matrix`` runs all of them, rewrites the rows in results.json that it ran, and the
table in docs/architectures.md between its two marks.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from mlc.sources.huggingface.loading import EAGER
from tests.architectures.cached import CACHED, build_cached
from tests.architectures.check import CRASHED, TIMEOUT, Row, check
from tests.architectures.families import build, families
from tests.architectures.overrides import EXCLUDED
from tests.architectures.own import OWN
from tests.architectures.table import rewrite

RESULTS = Path(__file__).with_name("results.json")
PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
SECONDS = 300
"""How long one architecture may take."""
WARM = "tests.architectures.warm"
"""What the server imports once for all processes."""

OFTEN = (
    "bert", "roberta", "distilbert", "deberta-v2", "electra", "albert", "mpnet", "gpt2", "llama", "mistral", "qwen2",
    "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "opt", "bloom", "t5", "bart", "mbart", "pegasus",
    "whisper", "wav2vec2", "hubert", "vit", "deit", "swin", "beit", "convnext", "convnextv2", "resnet", "mobilenet_v1",
    "mobilenet_v2", "efficientnet", "segformer", "detr", "clip_text_model", "clip_vision_model", "clip", "siglip",
    "mixtral", "qwen2_moe", "qwen3_moe", "mamba", "mamba2", "rwkv", "superpoint", "dinov2", "dinov3_vit", "modernbert",
    "xlm-roberta", "camembert", "falcon", "gpt_neox", "gpt_neo", "gptj", "gpt_bigcode", "gpt_oss", "starcoder2",
    "stablelm", "olmo", "olmo2", "cohere", "granite", "smollm3", "deepseek_v2", "deepseek_v3", "jamba", "layoutlm",
    "longformer", "big_bird", "deberta", "esm", "xlnet", "mobilebert", "squeezebert", "funnel", "fnet", "mt5",
    "marian", "blenderbot", "audio-spectrogram-transformer", "wavlm", "dpt", "depth_anything", "yolos",
    "rt_detr", "deformable_detr", "table-transformer", "owlvit", "videomae", "sam", "mobilevit", "levit", "poolformer",
    "regnet", "bit", "cvt", "pvt", "focalnet", "blip", "llava", "qwen2_vl", "paligemma", "idefics3", "smolvlm",
)  # fmt: skip
"""The families that are used most, which come first."""


def subjects(attention: str) -> dict[str, Callable[[], Row]]:
    """Return what checks each architecture by its name: own modules, the families used most, all others."""
    order = sorted(families(), key=lambda name: (OFTEN.index(name) if name in OFTEN else len(OFTEN), name))
    return {
        **{name: functools.partial(_own, name) for name in OWN},
        **{name: functools.partial(check, name, functools.partial(build_cached, name)) for name in CACHED},
        **{name: functools.partial(_family, name, attention) for name in order},
    }


def _own(name: str) -> Row:
    return check(name, OWN[name].subject)


def _family(name: str, attention: str) -> Row:
    return replace(check(name, functools.partial(build, name, attention=attention)), attention=attention)


def apart(name: str, run: Callable[[], Row], seconds: float = SECONDS) -> Row:
    """Return the row that a process of its own makes, or that of its crash or of the end of its time."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        process = _context().Process(target=_work, args=(run, place))  # type: ignore[attr-defined]
        process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
            return Row(name, TIMEOUT, sentence=f"it took more than {seconds:.0f} s", seconds=seconds)
        if process.exitcode == 0:
            return Row(**json.loads((place / "row.json").read_text(encoding="utf-8")))
        said = (place / "stderr").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return Row(name, CRASHED, sentence=f"exit code {process.exitcode}: {said[-1] if said else 'nothing said'}")


def _work(run: Callable[[], Row], place: Path) -> None:
    with (place / "stderr").open("wb") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    (place / "row.json").write_text(json.dumps(asdict(run())), encoding="utf-8")


def _context() -> multiprocessing.context.BaseContext:
    """Return how processes begin: from a server that has no threads, whatever this one has; else afresh."""
    has_server = "forkserver" in multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if has_server else "spawn")


def kept() -> dict[str, Row]:
    """Return the rows of earlier runs by name."""
    if not RESULTS.exists():
        return {}
    return {row["name"]: Row(**row) for row in json.loads(RESULTS.read_text(encoding="utf-8"))}


def keep(rows: Sequence[Row]) -> None:
    """Write rows in the order of their names, those of own modules first."""
    ordered = sorted(rows, key=lambda row: (row.name not in OWN, row.name))
    RESULTS.write_text(json.dumps([asdict(row) for row in ordered], indent=1) + "\n", encoding="utf-8")


def run(names: Sequence[str], attention: str) -> Iterator[Row]:
    """Yield a row for each name, one after another."""
    known = subjects(attention)
    _context().set_forkserver_preload([WARM])
    for name in names:
        yield apart(name, known[name])


def main() -> None:
    """Run what was asked for and rewrite the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", nargs="*", metavar="NAME", help="only these families or own modules")
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many")
    parser.add_argument("--missing", action="store_true", help="only those that have no row yet")
    parser.add_argument("--attention", default=EAGER, help="the attention of transformers: eager, or sdpa")
    asked = parser.parse_args()
    rows = {name: row for name, row in kept().items() if name not in EXCLUDED}
    names = asked.family or [name for name in subjects(asked.attention) if not asked.missing or name not in rows]
    for row in run(names[: asked.limit], asked.attention):
        rows[row.name] = row
        keep(list(rows.values()))
        sys.stdout.write(f"{row.name}: {row.outcome}, {row.seconds} s. {row.sentence[:160]}\n")
        sys.stdout.flush()
    rewrite(PAGE, list(rows.values()))


if __name__ == "__main__":
    main()
