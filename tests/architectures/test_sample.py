"""A sample of the architectures in every run, in one process; the whole matrix is a command of its own."""

from __future__ import annotations

import functools
import json
import os
import pickle
import time
from pathlib import Path

import pytest

from mlc.sources.silence import silent
from tests.architectures import overrides
from tests.architectures.cached import CACHED, build_cached
from tests.architectures.check import CRASHED, REFUSED, RIGHT, TIMEOUT, UNBUILT, WRONG, Row, check
from tests.architectures.families import build, families
from tests.architectures.matrix import OFTEN, PAGE, apart, kept, subjects
from tests.architectures.own import OWN
from tests.architectures.table import START, table

pytestmark = pytest.mark.needs_onnxruntime

SAMPLE = (
    "bert", "gpt2", "llama", "fnet", "vit", "swin", "convnext", "resnet", "videomae", "audio-spectrogram-transformer",
    "clip_vision_model", "patchtst",
)  # fmt: skip

SCREEN = 800
"""How many characters a sentence and its hint may have together: ten lines of a terminal."""


@pytest.mark.parametrize("name", OWN)
def test_own_modules_are_right_or_refused_in_one_sentence(name):
    own = OWN[name]
    row = check(name, own.subject)
    assert row.outcome == (REFUSED if own.refused else RIGHT), row.sentence
    assert own.refused in row.sentence
    assert "\n" not in row.sentence
    assert len(row.sentence) + len(row.hint) < SCREEN


@pytest.mark.parametrize("name", SAMPLE)
def test_families_of_transformers_hold_at_every_size(name):
    with silent():
        pytest.importorskip("transformers", reason="needs the extra hf")
    row = check(name, functools.partial(build, name))
    assert row.outcome == RIGHT, row.sentence


# ---------------------------------------------------------------- the matrix itself


def dies() -> Row:
    os._exit(3)


def hangs() -> Row:
    time.sleep(60)
    return Row("hangs", RIGHT)


def ends() -> Row:
    return Row("ends", RIGHT, seconds=1.5)


def test_a_crash_and_the_end_of_the_time_are_rows_too():
    assert apart("ends", ends) == ends()
    assert apart("dies", dies) == Row("dies", CRASHED, sentence="exit code 3: nothing said")
    assert apart("hangs", hangs, 0.5).outcome == TIMEOUT


def test_the_tables_name_families_that_there_are():
    with silent():
        pytest.importorskip("transformers", reason="needs the extra hf")
    known = families()
    named = {
        *SAMPLE,
        *OFTEN,
        *overrides.FIELDS,
        *overrides.CLASSES,
        *overrides.INPUTS,
        *overrides.SIZES,
    }
    assert sorted(named - set(known) - set(overrides.EXCLUDED)) == []


def test_what_is_left_out_has_no_row_and_a_reason():
    assert not set(overrides.EXCLUDED) & {*kept(), *OWN}
    page = PAGE.read_text(encoding="utf-8")
    assert all(name in page and why in page for name, why in overrides.EXCLUDED.items())


def test_every_row_can_be_made_in_another_process():
    assert all(pickle.dumps(run) for run in subjects("eager").values())


def test_a_decoder_with_its_cache_in_and_out_holds_at_every_size():
    with silent():
        pytest.importorskip("transformers", reason="needs the extra hf")
    name = "llama, cache in and out"
    row = check(name, functools.partial(build_cached, name))
    assert row.outcome == RIGHT, row.sentence


def test_a_family_that_cannot_be_made_says_why(monkeypatch):
    def broken() -> None:
        raise ValueError("no such size")

    row = check("broken", broken)  # type: ignore[arg-type]
    assert row.outcome == UNBUILT
    assert "ValueError" in row.sentence


def test_every_own_module_and_every_decoder_with_a_cache_has_a_row():
    assert set(kept()) >= {*OWN, *CACHED}


def test_the_page_shows_the_rows_that_are_kept():
    rows = list(kept().values())
    assert json.loads(Path(__file__).with_name("results.json").read_text(encoding="utf-8"))
    assert [row.name for row in rows if row.outcome == WRONG] == []
    assert f"{START}\n{table(rows)}\n" in PAGE.read_text(encoding="utf-8")
