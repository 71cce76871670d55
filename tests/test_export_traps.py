"""What cannot be exported rightly is refused in one sentence that points at the user's line."""

import contextlib
import io
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mlc.compare import Reference
from mlc.errors import SourceError
from mlc.exporting import export
from mlc.recipe import parse_inputs
from mlc.runtimes.opening import open_session
from mlc.sources.load import load
from mlc.types import Target
from tests import models_for_export as models
from tests.exporting import exported

ROWS = "x=float32[batch=1..64,3]"


def refused(workspace, module, *specs, example=None):
    """The error of an export that has to fail: one sentence, one screen, nothing written elsewhere."""
    streams = io.StringIO()
    with contextlib.redirect_stderr(streams), contextlib.redirect_stdout(streams), pytest.raises(SourceError) as caught:
        exported(workspace, module, example, *specs)
    assert streams.getvalue() == ""
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500
    assert caught.value.hint
    return caught.value


def line_of(text, function="forward"):
    """``models_for_export.py:N in forward`` of the line that holds a text."""
    lines = Path(models.__file__).read_text().splitlines()
    (number,) = [number for number, line in enumerate(lines, 1) if text in line]
    return f"models_for_export.py:{number} in {function}"


def test_a_branch_on_the_batch_size_is_never_exported(workspace):
    error = refused(workspace, models.Gate(), ROWS)
    assert line_of("x.shape[0] > 4") in error.message
    assert "batch=1..64" in error.message
    assert "declare batch=1..4" in error.hint


def test_the_range_that_the_hint_gives_exports(workspace):
    gate = exported(workspace, models.Gate(), None, "x=float32[batch=1..4,3]")
    assert {"batch": 4} in gate.sizes


def test_a_branch_on_one_size_is_never_exported(workspace):
    assert line_of("x.shape[0] == 7") in refused(workspace, models.Odd(), ROWS).message


@pytest.mark.parametrize("bound", [2, 3, 5, 8, 33, 63])
def test_no_size_in_the_range_is_ever_wrong(workspace, bound):
    """A branch at any size: refused, never exported wrong."""

    class Branch(nn.Module):
        def forward(self, x):
            return x * 10 if x.shape[0] > bound else x

    error = refused(workspace, Branch(), ROWS)
    assert "batch" in error.message
    assert f"batch=1..{bound}" in error.hint or f"batch={bound + 1}..64" in error.hint or bound == 2


def test_what_the_trace_cannot_see_at_one_row_is_seen_by_running(workspace):
    error = refused(workspace, models.OneRow(), ROWS)
    assert "differs from the original at batch=1" in error.message
    assert "shape" in error.message


def test_a_dim_that_the_trace_fixes_names_dim_size_and_line(workspace):
    error = refused(workspace, models.FixedRows(), ROWS)
    assert error.message.startswith("batch cannot vary: the model works only at batch=2")
    assert line_of("rows = int(x.shape[0])") in error.message


@pytest.mark.parametrize(
    ("function", "hint"),
    [
        (lambda x: x[: int(x.shape[0])] / 2, "write torch.sym_int(...) there for int(...)"),
        (lambda x: x / float(x.shape[0]), "write torch.sym_float(...) there for float(...)"),
        (lambda x: torch.stack([row * 2 for row in x]), "compute all steps of that loop at once"),
        (lambda x: torch.stack(x.unbind(0)), "compute all steps of that loop at once"),
    ],
)
def test_a_line_that_fixes_a_dim_is_told_what_to_write(workspace, function, hint):
    error = refused(workspace, models.Of(function), "x=float32[batch=1..8,3]")
    assert error.message.startswith("batch cannot vary")
    assert error.hint.startswith(hint)


@pytest.mark.parametrize(
    "function",
    [lambda x: x[: torch.sym_int(x.shape[0] * 0.75)] / 2, lambda x: x / torch.sym_float(x.shape[0])],
)
def test_what_such_a_line_is_told_to_write_exports(workspace, function):
    exported(workspace, models.Of(function), None, "x=float32[batch=1..8,3]")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * (torch.rand(()) < 1e-6).float() + x,
        lambda x: x + torch.rand_like(x) * 5e-7,
        lambda x: torch.cond(x.sum() > 1e9, lambda x: x + torch.randn_like(x), lambda x: x * 2, (x,)),
    ],
)
def test_randomness_that_two_runs_do_not_show(workspace, function):
    with pytest.raises(SourceError, match=r"the model is random: Random.* draws numbers in each run"):
        exported(workspace, models.Of(function), None, ROWS, opset=20)


@pytest.mark.parametrize("function", [torch.linalg.svdvals, torch.linalg.eigvalsh])
def test_an_operator_inside_of_another_is_refused_with_the_users_line(workspace, function):
    class Net(nn.Module):
        def forward(self, x):
            return function(x.mT @ x)

    error = refused(workspace, Net(), "x=float32[4,3]")
    assert "test_export_traps.py" in error.message
    assert "function(x.mT @ x)" in error.message


def test_noise_that_an_input_turns_off_is_no_randomness(workspace):
    """As in text to speech, whose noise has a scale that callers give."""

    class Noisy(nn.Module):
        def forward(self, x, scale):
            return x * 2 + torch.randn_like(x) * scale

    inputs = ROWS, "scale=float32[] in 0..0"
    net = exported(workspace, Noisy(), None, *inputs, opset=20)
    assert "RandomNormalLike" in [node.op_type for node in net.model.graph]
    with pytest.raises(SourceError, match="random"):
        exported(workspace, Noisy(), None, ROWS, "scale=float32[] in 0..1", opset=20)


def test_a_forward_that_asks_whether_it_is_traced_is_told_so(workspace):
    class Net(nn.Module):
        def forward(self, x):
            return x * 2 if torch.compiler.is_compiling() else x * 3

    error = refused(workspace, Net(), ROWS)
    assert "differs from the original" in error.message
    assert error.hint.startswith("forward asks whether it is traced")
    assert "x * 2 if torch.compiler.is_compiling() else x * 3" in error.hint


def caught_branch(x):
    try:
        if x.sum() > 10:
            return x * 3
    except Exception:  # noqa: BLE001, S110 - as users write it
        pass
    return x * 2


def caught_number(x):
    with suppress(RuntimeError):
        return x * float(x.max())
    return x


@pytest.mark.parametrize("function", [caught_branch, caught_number])
def test_what_a_trace_refuses_is_not_lost_in_an_except(workspace, function):
    error = refused(workspace, models.Of(function), ROWS)
    assert "hangs on the values" in error.message


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (lambda x: x * float(x.sum()), "float()"),
        (lambda x: x * 2 if x.sum().item() > 0 else x, "item()"),
    ],
)
def test_a_number_of_a_tensor_is_told_to_stay_one(workspace, function, word):
    error = refused(workspace, models.Of(function), ROWS)
    assert "hangs on the values" in error.message
    assert error.hint.startswith(f"keep it a tensor, without {word}, or choose by torch.where")


def test_a_sum_of_dims_is_held_to_its_whole_range(workspace):
    error = refused(
        workspace,
        models.LongGate(),
        "past=float32[batch=1..8,past=0..16,8]",
        "x=float32[batch,seq=1..16,8]",
        "mask=float32[batch,total=past+seq]",
    )
    assert "all of total=1..32, such as total=21 (" in error.message
    assert line_of("mask.shape[1] > 20") in error.message


def test_a_model_that_does_not_hold_at_odd_sizes_says_so(workspace):
    error = refused(workspace, models.UNet(), "x=float32[1,3,h=32..64,32]")
    assert "the model does not hold at h=33" in error.message
    assert line_of("return torch.cat([wide") in error.message


def test_a_size_that_is_cut_where_it_is_odd_exports_at_every_one(workspace):
    crop = exported(workspace, models.Crop(), None, "x=float32[1,3,h=8..64,16]")
    drawn = np.random.default_rng(0).standard_normal((1, 3, 64, 16)).astype(np.float32)
    with open_session(workspace.save(crop.model, "crop"), Target()) as session:
        for image in (drawn[:, :, :h] for h in range(8, 65)):
            ours, theirs = session.run({"x": image})["output"], crop.original.run({"x": image})["output"]
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_branch_on_values_points_at_the_line_and_the_rewrite(workspace):
    error = refused(workspace, models.ValueBranch(), ROWS)
    assert line_of("if x.sum() > 0") in error.message
    assert "torch.where" in error.hint


def test_an_operator_without_a_counterpart_is_named_with_its_line(workspace):
    error = refused(workspace, models.Mode(), ROWS)
    assert "aten.mode" in error.message
    assert line_of("return torch.mode") in error.message
    assert "torch.bincount" in error.hint


def test_the_line_is_that_of_the_function_in_which_the_operator_stands(workspace):
    error = refused(workspace, models.ModeInside(), ROWS)
    assert line_of("most = torch.mode", "most_frequent") in error.message


def test_a_fake_quantize_module_is_exported_right_or_refused(workspace):
    class Quantizes(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            return torch.fake_quantize_per_tensor_affine(self.inner(x), 0.1, 0, -128, 127)

    try:
        made = exported(workspace, Quantizes(), torch.randn(2, 3))
    except SourceError as error:
        assert "fake_quantize" in error.message  # noqa: PT017
    else:
        assert all(check.held for check in made.checks)


def test_random_in_evaluation_mode_is_refused(workspace):
    error = refused(workspace, models.Noise(), example=torch.randn(2, 3))
    assert "two runs on the same input disagree in the output output" in error.message


def test_a_module_that_raises_is_quoted_with_its_line(workspace):
    error = refused(workspace, models.Raises(), example=torch.randn(2))
    assert "RuntimeError" in error.message
    assert "nothing to see" in error.message
    assert "models_for_export.py" in error.message


def test_a_module_without_a_tensor_in_its_answer(workspace):
    assert "NoTensor returned a str, no tensor" in refused(workspace, models.NoTensor(), example=torch.randn(2)).message


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_are_refused_before_anything_is_written(workspace, dtype):
    error = refused(workspace, models.Net().to(dtype), "image=float32[2,3,8,8]")
    assert re.search(r"weights are b?float16.*features.0.weight", error.message)
    assert list(workspace.path.iterdir()) == []


def test_half_precision_inside_is_refused_with_the_reason(workspace):
    error = refused(workspace, models.Autocast(), example=torch.randn(2, 8))
    assert "the exported model does not run" in error.message
    assert "it computes in bfloat16" in error.hint


def test_pooling_that_the_exporter_gets_wrong_is_caught_by_running(workspace):
    class Pool(nn.Module):
        def forward(self, x):
            return torch.ops.aten.adaptive_avg_pool2d(x, (3, 3))

    error = refused(workspace, Pool(), "x=float32[2,4,h=6..18,9]")
    assert error.message.startswith("the exported model differs from the original at h=18: output has shape")


def test_a_wrong_number_is_named_with_size_output_error_and_tolerance(workspace):
    original = load(models.Same(), parse_inputs(["x=float32[n=1..4,3]"]))
    inputs = {"x": np.ones((2, 3), np.float32)}
    outputs = original.run(inputs)
    outputs["output.1"] = outputs["output.1"] * 1.01
    with pytest.raises(SourceError, match=r"at n=2: output\.1 differs by 0\.0099 of its rms, allowed is 0\.001"):
        export(original, [Reference({"n": 2}, inputs, outputs)], workspace, 20)
