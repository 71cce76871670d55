"""Masks that mask nothing: code that leaves them out exports where both of its ways give the same."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mlc.errors import SourceError
from mlc.exporting import export
from mlc.exporting.asked import Asked
from mlc.exporting.cache import Cache
from mlc.exporting.masks import no_idle_masks
from mlc.exporting.taken import both_ways
from mlc.probes import references
from mlc.recipe import parse_inputs
from mlc.runtimes.onnxruntime import open_session
from mlc.sources.load import load
from mlc.types import Target
from tests.exporting import exported

pytestmark = pytest.mark.needs_onnxruntime


class Unpadded(nn.Module):
    """Scores of tokens, none of padding, whose mask is left out where there is no padding."""

    def __init__(self, padding, otherwise):
        super().__init__()
        self.inner = nn.Embedding(10, 4)
        self.padding, self.otherwise = padding, otherwise

    def forward(self, ids):
        mask = ids.eq(self.padding)
        if not mask.any():
            mask = None
        scores = self.inner(ids).sum(-1)
        return (scores * self.otherwise if mask is None else scores.masked_fill(mask, -1e4)).softmax(-1)


class Both(nn.Module):
    """One function that leaves out masks, for two of them: of the second no token is padding."""

    def __init__(self):
        super().__init__()
        self.inner = Unpadded(3, 1)
        self.inner.inner = nn.Embedding(14, 4)

    def forward(self, ids):
        first = self.inner(ids)
        return first + self.inner(ids + 4)


class Whole(nn.Module):
    """A mean over what a mask leaves, where it leaves all a plain one."""

    def forward(self, x, mask):
        if torch.all(mask == 1):
            return x.mean(1)
        weights = mask.float()
        return (x * weights).sum(1) / weights.sum(1).clamp(min=1)


class AtOnce(nn.Module):
    """Two masks in one line, of which the first is of nearly every input."""

    def forward(self, ids):
        padding, other = ids.eq(3), ids.ne(5)
        return ids.masked_fill(padding, 0) if other.any() and padding.any() else ids + 0


class InTurn(nn.Module):
    """Two masks in one loop, of which the second is of no input."""

    def forward(self, ids):
        for token in (3, 77):
            padding = ids.eq(token)
            ids = ids.masked_fill(padding, 0) if padding.any() else ids + 0
        return ids


class UntilSmall(nn.Module):
    """What is halved until it is small, which no trace can do."""

    def forward(self, x):
        while (x.abs() > 1).any():
            x = x / 2
        return x


class BranchesOn(nn.Module):
    """What goes another way still where nothing is masked, at sizes or values that are rare."""

    def __init__(self, branch):
        super().__init__()
        self.branch = branch

    def forward(self, x, mask):
        if not mask.any():
            return x.clamp(max=3) if self.branch(x) else x
        return x.masked_fill(mask, 0)


IDS = "ids=int64[batch=1..4,n=1..9] in 0..9"


def looked_for(module, *specs):
    """The answers for both ways of a module that is not traced, at the sizes of all others."""
    original = load(module, parse_inputs(specs), None)
    answers, _ = references(original, None, 0)
    asked = Asked()
    for answer in answers:
        with asked:
            original.run(answer.inputs)
    return both_ways(original, asked.lines, answers)


def test_a_mask_that_is_left_out_where_it_masks_nothing_is_kept(workspace, tmp_path):
    original = load(Unpadded(3, 1), parse_inputs([IDS]), None)
    answers, _ = references(original, None, 0)
    cache = Cache(tmp_path / "cache")
    artifact, _ = export(original, answers, workspace, cache=cache)
    (note,) = [note for note in artifact.origin.notes if "something is masked" in note]
    assert "if not mask.any():" in note
    drawn = np.random.default_rng(0).integers(0, 10, (3, 7))
    with open_session(workspace.save(artifact.model, "again"), Target(), optimize=False) as session:
        for ids in (drawn, np.full((2, 5), 3), np.full((2, 5), 4)):
            np.testing.assert_allclose(
                session.run({"ids": ids})["output"], original.run({"ids": ids})["output"], atol=1e-5
            )
    taken, _ = export(original, answers, workspace, cache=cache)
    assert any("came from the cache" in note for note in taken.origin.notes)
    with pytest.raises(SourceError, match="none that was tried"):  # one of the cache is held to both ways too
        export(original, (), workspace, cache=cache)


def test_a_way_that_gives_something_else_is_refused(workspace):
    with pytest.raises(SourceError, match="differs from the original"):
        exported(workspace, Unpadded(3, 2), None, IDS)


@pytest.mark.parametrize(
    ("branch", "why"),
    [
        (lambda x: x.max() > 8, r"where nothing is masked, what the model computes hangs on the values .*self\.branch"),
        (lambda x: x.shape[0] == 22, r"where nothing is masked, .* for all sizes, such as n=22, because of .*"),
    ],
)
def test_a_branch_inside_of_the_way_that_is_not_traced_is_refused(workspace, branch, why):
    with pytest.raises(SourceError, match=why):
        exported(workspace, BranchesOn(branch), None, "x=float32[n=1..40]", "mask=bool[n]")


def test_what_asks_for_all_of_a_mask_is_traced_as_where_some_is_missing(workspace):
    net = exported(workspace, Whole(), None, "x=float32[b=1..4,n=1..9]", "mask=int64[b,n] in 0..1")
    x, ones = np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32), np.ones((3, 7), np.int64)
    with open_session(workspace.save(net.model, "again"), Target(), optimize=False) as session:
        for mask in (ones, ones * 0, np.tri(3, 7, dtype=np.int64)):
            given: dict[str, np.ndarray[Any, Any]] = {"x": x, "mask": mask}
            np.testing.assert_allclose(session.run(given)["output"], net.original.run(given)["output"], atol=1e-5)


def test_a_loop_until_nothing_is_masked_is_not_traced_without_end(workspace, monkeypatch):
    monkeypatch.setattr("mlc.exporting.asked.MOST", 3)
    with pytest.raises(SourceError, match=r"hangs on the values of its inputs at .*while"):
        exported(workspace, UntilSmall(), None, "x=float32[b=1..4]")


def test_a_way_that_is_rare_at_large_sizes_is_looked_for_at_each():
    more = looked_for(Whole(), "x=float32[b=1..4,n=1..9]", "mask=int64[b,n] in 0..1")
    whole = [one for one in more if one.inputs["mask"].all()]
    assert {1, 2, 3, 9} <= {one.sizes["n"] for one in whole}
    assert all(np.unique(one.inputs["x"]).size == one.inputs["x"].size for one in whole)  # which are not repeated


def test_a_way_that_only_the_ends_of_ranges_take_is_looked_for_within_them():
    more = looked_for(Unpadded(3, 1), "ids=int64[batch=2..3,n=8..9] in 2..3")
    assert {(2, 8), (2, 9), (3, 8)} <= {one.inputs["ids"].shape for one in more if (one.inputs["ids"] == 2).all()}


def test_a_way_that_no_input_took_is_refused():
    with pytest.raises(SourceError, match=r"`if not mask.any\(\):`, and none that was tried makes it True"):
        looked_for(Unpadded(77, 1), IDS)


def test_a_way_that_is_taken_at_sizes_of_one_alone_is_refused():
    class Rare(nn.Module):
        def forward(self, x):
            return x + 0 if (x > x.mean()).any() else x * 1

    with pytest.raises(SourceError, match="none that was tried makes it False but at sizes of 1"):
        looked_for(Rare(), "x=float32[n=1..9]")


@pytest.mark.parametrize("module", [Both, AtOnce, InTurn])
def test_each_mask_has_to_be_seen_both_ways(module):
    with pytest.raises(SourceError, match="none that was tried makes it"):
        looked_for(module(), "ids=int64[batch=2..3,n=6..9] in 0..9")


class Seen(nn.Module):
    """What transformers makes of no mask, for a sequence that attends to all of itself."""

    def __init__(self, masking, config):
        super().__init__()
        self.masking, self.config = masking, config

    def forward(self, x):
        mask = self.masking.create_bidirectional_mask(config=self.config, inputs_embeds=x, attention_mask=None)
        return x if mask is None else x * torch.nan


def test_a_mask_of_nothing_is_left_out_of_a_trace_as_it_is_when_the_model_runs(workspace):
    transformers = pytest.importorskip("transformers")
    masking = pytest.importorskip("transformers.masking_utils")
    module = Seen(masking, transformers.BertConfig(attn_implementation="eager"))
    own = masking._ignore_bidirectional_mask_sdpa
    with no_idle_masks():
        program = torch.export.export(module, (torch.ones(2, 3, 4),))
    assert not torch.isnan(program.module()(torch.ones(2, 3, 4))).any()
    assert masking._ignore_bidirectional_mask_sdpa is own


# ---------------------------------------------------------------- lines that check what they are given


class Checked(nn.Module):
    """Raises where something is not as it has to be."""

    def __init__(self, check):
        super().__init__()
        self.check = check

    def forward(self, x):
        self.check(x)
        return x * 2


def raises(x):
    if torch.isnan(x).any():
        raise ValueError("NaN in the input")


def asserts(x):
    assert (x < 100).all(), "too large"


@pytest.mark.parametrize(("check", "what"), [(raises, "ValueError: NaN in"), (asserts, "AssertionError: too large")])
def test_a_line_that_checks_its_input_is_left_out_and_said(workspace, check, what):
    found = exported(workspace, Checked(check), None, "x=float32[n=1..9]")
    (note,) = [note for note in found.artifact.origin.notes if "does not check" in note]
    assert note.startswith(f"the exported model does not check what raises {what}")
    assert f"in {check.__name__}: `" in note


def nothing_is_positive(x):
    if not (x > -100).any():
        raise ValueError("nothing here")


def test_a_line_that_checks_that_there_is_something(workspace):
    found = exported(workspace, Checked(nothing_is_positive), None, "x=float32[n=1..9]")
    assert any("does not check what raises ValueError: nothing here" in note for note in found.artifact.origin.notes)


def test_a_check_that_is_called_often_is_told_once(workspace):
    class Often(nn.Module):
        def forward(self, x):
            for _ in range(3):
                raises(x)
                x = x + 1
            raises(x)
            return x

    found = exported(workspace, Often(), None, "x=float32[n=1..9]")
    (note,) = [note for note in found.artifact.origin.notes if "does not check" in note]
    assert note.endswith("in raises: `if torch.isnan(x).any():`")


def long_and_unknown(x):
    if torch.isnan(x).any():
        if x.shape[0] > 4:
            raise ValueError("too long for NaN")
        x.nan_to_num_()


def in_a_trace(x):
    if torch.isnan(x).any():
        x.nan_to_num_()
        if torch.compiler.is_exporting():
            raise ValueError("not in a trace")


@pytest.mark.parametrize("check", [long_and_unknown, in_a_trace])
def test_a_branch_that_does_more_than_raise_is_no_check(workspace, check):
    with pytest.raises(SourceError, match="ValueError"):
        exported(workspace, Checked(check), None, "x=float32[n=5..9]")


def test_what_raises_for_another_reason_is_told(workspace):
    def refuses(x):
        if (x > 0).any():
            x = x + 1
        if torch.compiler.is_exporting():
            raise ValueError("never right")

    with pytest.raises(SourceError, match="never right"):
        exported(workspace, Checked(refuses), None, "x=float32[n=1..9]")


def test_a_check_that_the_model_itself_takes_back_is_none(workspace):
    class Catches(nn.Module):
        def forward(self, x, y):
            try:
                raises(x)
            except ValueError:
                x = torch.nan_to_num(x)
            raises(y)
            return x + y

    with pytest.raises(SourceError, match="hangs on the values of its inputs"):
        exported(workspace, Catches(), None, "x=float32[n=1..9]", "y=float32[n]")
