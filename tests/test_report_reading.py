"""A report read back is the report that was written: every form of it, whatever it holds, or one sentence."""

from __future__ import annotations

import collections.abc
import dataclasses
import json as standard_json
import math
import types
from pathlib import Path
from typing import Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc.errors import SourceError
from mlc.judging import Report
from mlc.layer_errors import LayerError
from mlc.manifest import digest
from mlc.report import html, json, markdown, text, write_reports
from mlc.report.reading import read_report
from mlc.report.restoring import Restorer
from tests.report_sample import sample, validated
from tests.test_report import bare, slower, unmodified

FORMS = (text, markdown, html, json)


def odd():
    """Return a report of what JSON has no word for: numbers that are none, a name that is no Unicode, integers."""
    layers = tuple(LayerError("x", "Relu", value) for value in (math.nan, math.inf, -math.inf, 0.1 + 0.2, -0.0))
    return dataclasses.replace(sample(), layers=layers, eager=(3, 4.5, 5), recipe_text="# \udc80\n", plan=None)


@pytest.mark.parametrize("build", [sample, validated, bare, slower, unmodified, odd])
def test_every_form_of_a_report_read_back_is_as_it_was_written(build, tmp_path):
    report = build()
    write_reports(report, tmp_path)
    read = read_report(tmp_path)
    assert (read.place, read.unknown) == (str(tmp_path), ())
    for form in FORMS:
        assert form.render(read.report) == form.render(report)
    alone = read_report(tmp_path / "report.json")
    assert json.render(alone.report) == json.render(report)


def anything(kind):
    """Return a strategy of values of a kind as the type hints of the nouns have them, every field filled."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in {Union, types.UnionType}:
        return st.one_of([anything(each) for each in arguments])
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(anything(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(anything, arguments))
    if origin is not None and issubclass(origin, collections.abc.Mapping):
        return st.dictionaries(st.text(max_size=3), anything(arguments[1]), max_size=2)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(kind, **{each.name: anything(hints[each.name]) for each in dataclasses.fields(kind)})
    leaves = {
        float: st.floats() | st.integers(-(10**6), 10**6),
        int: st.integers(),
        bool: st.booleans(),
        str: st.text(st.characters(), max_size=5),
        Path: st.just(Path("model.onnx")),
        type(None): st.none(),
    }
    return leaves[kind]


@settings(max_examples=25, deadline=None)
@given(anything(Report))
def test_any_report_survives_the_way_through_json(report):
    written = json.render(report)
    content = standard_json.loads(written)
    assert content.pop("schema") == json.SCHEMA
    restorer = Restorer()
    assert json.render(restorer.restore(content, Report, "report")) == written
    assert restorer.unknown == []


def written(folder, content):
    """Write what a report.json may hold, and return its folder."""
    (folder / "report.json").write_text(content if isinstance(content, str) else standard_json.dumps(content))
    return folder


def plain():
    return standard_json.loads(json.render(sample()))


def changed(**fields):
    return {**plain(), **fields}


WRONG = {
    "not JSON": ("{", "is not JSON: expecting property name enclosed in double quotes at line 1, column 2"),
    "too deep": ("[" * 100_000, "is not JSON: it is nested too deep"),
    "a list": ([], "is not a report of mlc compile or validate"),
    "of another program": ({"version": 3}, "is not a report of mlc compile or validate"),
    "a bench": ({"schema": 1, "trials": [], "machine": None}, "is not a report of mlc compile or validate"),
    "newer": (changed(schema=99), "was written by a newer mlc: its schema is 99, and this version reads 1"),
    "without a field": ({key: value for key, value in plain().items() if key != "origin"}, "report has no origin"),
    "another kind": (changed(shipped=3), "report.shipped is an int, not str"),
    "another kind below": (changed(trials=[{"candidate": 3}]), "report.trials[0].candidate is an int, not an object"),
    "a number too large": (changed(eager=[10**400, 1, 1]), "report.eager[0] is an int, not a number that a float can"),
    "a missing number": (changed(eager=[1.0, 2.0]), "report.eager has 2 entries, not 3"),
    "a truth for a number": (changed(origin={**plain()["origin"], "opset": True}), "report.origin.opset is a bool"),
    "no object": (changed(data=[]), "report.data is a list, not an object"),
}


@pytest.mark.parametrize(("content", "said"), WRONG.values(), ids=WRONG)
def test_what_is_no_report_is_one_sentence(tmp_path, content, said):
    with pytest.raises(SourceError) as caught:
        read_report(written(tmp_path, content))
    assert str(tmp_path / "report.json") in caught.value.message
    assert said in caught.value.message
    assert caught.value.hint


def test_what_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(SourceError, match="there is no "):
        read_report(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"has no report\.json"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_bytes(b'{"schema": 1, "\xff": 2}')
    with pytest.raises(SourceError, match="is not JSON: it is not UTF-8 text"):
        read_report(tmp_path)


def test_fields_of_a_later_version_are_named_and_left_out(tmp_path):
    content = changed(later=3)
    content["trials"][0]["carbon"] = 0.1
    read = read_report(written(tmp_path, content))
    assert read.unknown == ("report.later", "report.trials[0].carbon")
    assert json.render(read.report) == json.render(sample())


def test_fields_of_an_earlier_version_that_are_missing_have_their_defaults(tmp_path):
    content = {key: value for key, value in plain().items() if key not in {"eager", "recipe_text"}}
    assert read_report(written(tmp_path, content)).report.eager is None


def artifact(folder):
    """Write a report beside a model and a manifest of both."""
    write_reports(sample(), folder)
    (folder / "model.onnx").write_bytes(b"a model")
    files = {name: {"sha256": digest(folder / name)} for name in ("model.onnx", "report.json")}
    (folder / "manifest.json").write_text(standard_json.dumps({"files": files}))
    return folder


def test_a_report_is_about_the_model_beside_it(tmp_path):
    folder = artifact(tmp_path)
    assert read_report(folder)
    (folder / "model.onnx").write_bytes(b"another")
    with pytest.raises(SourceError, match=r"model\.onnx is not the model that the report is about"):
        read_report(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(SourceError, match=r"model\.onnx is missing"):
        read_report(folder)
    assert read_report(folder / "report.json"), "a report alone speaks for itself"


def test_a_report_that_was_reformatted_is_still_read(tmp_path):
    folder = artifact(tmp_path)
    content = standard_json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(standard_json.dumps(content))
    assert json.render(read_report(folder).report) == json.render(sample())
