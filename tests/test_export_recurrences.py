"""Layers of transformers that loop over the sequence are one graph at every length, the loop an operator in it."""

import numpy as np
import pytest
import torch
from torch import nn

from mlc import api
from mlc.exporting.recurrences.rolled import ROLLED, rolled
from mlc.runtimes.onnxruntime import open_session
from mlc.types import Target
from mlc.workspace import Workspace
from tests.exporting import exported

modeling = pytest.importorskip("transformers.models.qwen3_5.modeling_qwen3_5", reason="needs transformers")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# what is computed


def tokens(length, *, by_channel, alike=False):
    """Queries, keys, values, decays and rates of two samples: heads of the values are twice those of the keys."""
    groups = 1 if by_channel else 2
    keys = drawn(2, length, 2, 8, seed=1)
    return {
        "query": drawn(2, length, 2, 8),
        "key": keys[:, :1].expand(keys.shape).contiguous() if alike else keys,
        "value": drawn(2, length, 2 * groups, 6, seed=2),
        "g": -drawn(2, length, 2 * groups, *([8] if by_channel else []), seed=3).abs() * (0.01 if alike else 1),
        "beta": drawn(2, length, 2 * groups, seed=4).sigmoid(),
    }


DELTA_RULES = [("qwen3_5", "torch_chunk_gated_delta_rule", False), ("kimi_linear", "chunk_kimi_delta_attention", True)]


@pytest.mark.parametrize(("family", "name", "by_channel"), DELTA_RULES)
@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("length", [1, 9, 64, 150])
def test_the_delta_rule_is_that_of_transformers(family, name, by_channel, alike, length):
    own = getattr(pytest.importorskip(f"transformers.models.{family}.modeling_{family}"), name)
    given = tokens(length, by_channel=by_channel, alike=alike)
    state = drawn(2, given["value"].shape[2], 8, 6, seed=5)
    for options in (
        {},
        {"use_qk_l2norm_in_kernel": True},
        {"use_qk_l2norm_in_kernel": True, "initial_state": state, "output_final_state": True},
    ):
        if alike and not options:
            continue  # without a norm the state of keys that are all alike grows without bound
        with torch.no_grad():
            (theirs, their_last), (ours, our_last) = own(**given, **options), ROLLED[name](**given, **options)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(our_last, their_last, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("length", [1, 9])
def test_the_selective_scan_is_that_of_transformers(length):
    mamba = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    given = [drawn(2, 6, length), drawn(2, 6, length, seed=1), -drawn(6, 4, seed=2).exp()]
    given += [drawn(2, 4, length, seed=3), drawn(2, 4, length, seed=4)]
    more = {"D": drawn(6), "z": drawn(2, 6, length, seed=5), "delta_bias": drawn(6, seed=6), "delta_softplus": True}
    with torch.no_grad():
        for options in ({}, more, {**more, "return_last_state": True}):
            ours, theirs = (
                each(*given, **options) for each in (ROLLED["mamba_selective_scan"], mamba.mamba_selective_scan)
            )
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("length", [1, 9])
def test_weighted_keys_are_those_of_transformers(length):
    rwkv = pytest.importorskip("transformers.models.rwkv.modeling_rwkv")
    given = [drawn(6), drawn(6, seed=1), 40 * drawn(2, length, 6, seed=2), drawn(2, length, 6, seed=3)]
    with torch.no_grad():
        _, state = rwkv.rwkv_linear_attention(*given, return_state=True)
        for options in ({}, {"return_state": True}, {"state": state}):
            ours, theirs = (
                each(*given, **options) for each in (ROLLED["rwkv_linear_attention"], rwkv.rwkv_linear_attention)
            )
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("length", [1, 9, 70])
@pytest.mark.parametrize("mode", ["inference", "train_with_padding"])
def test_the_matrix_memory_is_that_of_transformers(length, mode):
    xlstm = pytest.importorskip("transformers.models.xlstm.modeling_xlstm")
    backend = xlstm.xLSTMBackend(xlstm.xLSTMConfig(mode=mode, return_last_states=False))
    given = [drawn(2, 3, length, 8), drawn(2, 3, length, 8, seed=1), drawn(2, 3, length, 6, seed=2)]
    given += [3 * drawn(2, 3, length, seed=3), 3 * drawn(2, 3, length, seed=4)]
    states = (drawn(2, 3, 8, 6, seed=5), drawn(2, 3, 8, seed=6), drawn(2, 3, 1, seed=7))
    with torch.no_grad():
        for more in ((), states):
            ours, theirs = ROLLED["xLSTMBackend.forward"](backend, *given, *more), backend(*given, *more)
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("length", [1, 9])
def test_the_linear_recurrence_is_that_of_transformers(length):
    gemma = pytest.importorskip("transformers.models.recurrent_gemma.modeling_recurrent_gemma")
    gates, resets = drawn(2, length, 6, seed=1).sigmoid(), drawn(2, length, 1, seed=2) > 1
    for state in (None, drawn(2, 6, seed=3)):
        given = (None, drawn(2, length, 6), gates, resets, state)
        with torch.no_grad():
            ours, theirs = ROLLED["RecurrentGemmaRglru._rnn_scan"](*given), gemma.RecurrentGemmaRglru._rnn_scan(*given)
        torch.testing.assert_close(ours, theirs)


# what is replaced


OWN = type("Own", (modeling.Qwen3_5GatedDeltaNet,), {})
"""A layer of the user's own that computes what its base does."""


def gated_delta_net(kind=modeling.Qwen3_5GatedDeltaNet):
    """A layer of Qwen3.5 with two heads of keys and four of values."""
    torch.manual_seed(0)
    config = modeling.Qwen3_5TextConfig(
        hidden_size=16, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8
    )
    return kind(config, 0).eval()


@pytest.mark.parametrize("kind", [modeling.Qwen3_5GatedDeltaNet, OWN])
def test_a_function_is_replaced_for_the_block_alone(kind):
    layer, own = gated_delta_net(kind), modeling.torch_chunk_gated_delta_rule
    with pytest.raises(ZeroDivisionError), rolled(layer) as called, torch.no_grad():
        assert called == set()
        layer(drawn(1, 3, 16))
        assert called == {"torch_chunk_gated_delta_rule of qwen3_5"}
        raise ZeroDivisionError
    assert modeling.torch_chunk_gated_delta_rule is own


def torch_chunk_gated_delta_rule():
    """Something else that has the name."""


def test_functions_of_other_packages_are_left_alone():
    class Other(nn.Module):
        pass

    own = torch_chunk_gated_delta_rule
    with rolled(Other()):
        assert torch_chunk_gated_delta_rule is own


def test_what_a_file_imports_is_left_alone(monkeypatch):
    """As the file of xLSTM imports a class from another package, where that is installed."""

    class RecurrentGemmaRglru(nn.Module):
        def _rnn_scan(self):
            """Something else."""

    own = RecurrentGemmaRglru._rnn_scan
    monkeypatch.setattr(modeling, "RecurrentGemmaRglru", RecurrentGemmaRglru, raising=False)
    with rolled(gated_delta_net()):
        assert RecurrentGemmaRglru._rnn_scan is own


def test_a_function_that_takes_more_than_is_known_is_left_alone(monkeypatch):
    def torch_chunk_gated_delta_rule(query, key, value, *, decay_floor=None):
        """As a newer release may have it."""

    torch_chunk_gated_delta_rule.__module__ = modeling.__name__
    monkeypatch.setattr(modeling, "torch_chunk_gated_delta_rule", torch_chunk_gated_delta_rule)
    with rolled(gated_delta_net()):
        assert modeling.torch_chunk_gated_delta_rule is torch_chunk_gated_delta_rule


# what is exported


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    with Workspace(tmp_path_factory.mktemp("room")) as made:
        yield made


@pytest.fixture(scope="module")
def net(room):
    return exported(room, gated_delta_net(), None, "hidden_states=float32[batch=1..3,length=1..150,16]")


def assert_alike(room, model, original, *shapes):
    """A model, optimized by the runtime, gives what the original gives."""
    with open_session(room.save(model, "again"), Target()) as session:
        for shape in shapes:
            given = {"hidden_states": drawn(*shape, 16).numpy()}
            ours, theirs = session.run(given)["output"], original.run(given)["output"]
            np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.needs_onnxruntime
def test_a_loop_over_chunks_is_one_graph_for_any_number_of_them(room, net):
    assert [node.op_type for node in net.model.graph].count("Scan") == 1
    assert_alike(room, net.model, net.original, (1, 1), (3, 64), (2, 65), (1, 129))
    assert net.shape("output") == ["batch", "length", "16"]


@pytest.mark.needs_onnxruntime
def test_the_report_names_what_was_replaced(net):
    (note,) = [note for note in net.artifact.origin.notes if "loop" in note]
    assert "a loop of the graph in the place of torch_chunk_gated_delta_rule of qwen3_5" in note


@pytest.mark.needs_onnxruntime
def test_passes_hold_around_and_in_the_loop(room, net):
    done = api.rewrite(net.artifact, net.original)
    assert {step.dropped for step in done.steps if "opset" not in step.dropped} == {""}
    assert any(step.sites for step in done.steps)
    assert_alike(room, done.model, net.original, (1, 1), (2, 65))
