"""Masks that mask nothing: code that leaves them out exports where both of its ways give the same."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mlc.errors import SourceError
from mlc.exporting import export
from mlc.exporting.cache import Cache
from mlc.exporting.masks import no_idle_masks
from mlc.probes import references
from mlc.recipe import parse_inputs
from mlc.runtimes.onnxruntime import open_session
from mlc.sources.load import load
from mlc.types import Target
from mlc.workspace import Workspace
from tests.exporting import exported, one_registry  # noqa: F401 - a fixture for all of this file

pytestmark = pytest.mark.needs_onnxruntime


@pytest.fixture
def workspace(tmp_path):
    with Workspace(tmp_path) as made:
        yield made


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


IDS = "ids=int64[batch=1..4,n=1..9] in 0..9"


def test_a_mask_that_is_left_out_where_it_masks_nothing_is_kept(workspace):
    net = exported(workspace, Unpadded(3, 1), None, IDS)
    (note,) = [note for note in net.artifact.origin.notes if "something is masked" in note]
    assert "if not mask.any():" in note
    drawn = np.random.default_rng(0).integers(0, 10, (3, 7))
    with open_session(workspace.save(net.model, "again"), Target(), optimize=False) as session:
        for ids in (drawn, np.full((2, 5), 3), np.full((2, 5), 4)):
            np.testing.assert_allclose(
                session.run({"ids": ids})["output"], net.original.run({"ids": ids})["output"], atol=1e-5
            )


def test_a_way_that_gives_something_else_is_refused(workspace):
    with pytest.raises(SourceError, match="differs from the original"):
        exported(workspace, Unpadded(3, 2), None, IDS)


def test_a_way_that_no_input_took_is_refused(workspace):
    with pytest.raises(SourceError, match="none that was tried makes it True"):
        exported(workspace, Unpadded(77, 1), None, IDS)


def test_each_mask_has_to_be_seen_both_ways(workspace):
    with pytest.raises(SourceError, match="none that was tried makes it True"):
        module = Both()
        module.inner.inner = nn.Embedding(14, 4)
        exported(workspace, module, None, IDS)


def test_what_asks_for_all_of_a_mask_is_traced_as_where_some_is_missing(workspace):
    net = exported(workspace, Whole(), None, "x=float32[b=1..4,n=1..9]", "mask=int64[b,n] in 0..1")
    x, ones = np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32), np.ones((3, 7), np.int64)
    with open_session(workspace.save(net.model, "again"), Target(), optimize=False) as session:
        for mask in (ones, ones * 0, np.tri(3, 7, dtype=np.int64)):
            given: dict[str, np.ndarray[Any, Any]] = {"x": x, "mask": mask}
            np.testing.assert_allclose(session.run(given)["output"], net.original.run(given)["output"], atol=1e-5)


def test_an_export_of_the_cache_is_held_to_both_ways_too(workspace, tmp_path):
    original = load(Unpadded(3, 1), parse_inputs([IDS]), None)
    answers, _ = references(original, None, 0)
    cache = Cache(tmp_path / "cache")
    export(original, answers, workspace, cache=cache)
    taken, _ = export(original, answers, workspace, cache=cache)
    assert any("came from the cache" in note for note in taken.origin.notes)
    assert any(not (answer.inputs["ids"] == 3).any() for answer in answers)
    with pytest.raises(SourceError, match="none that was tried"):
        export(original, (), workspace, cache=cache)


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
