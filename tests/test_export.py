"""Export keeps the contract: names, order, dtypes, dims, opset, and every number at every size that was run."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from mlc.errors import SourceError, UsageError
from mlc.exporting import export
from mlc.exporting.tidy import lowest_ir_version
from mlc.probes import references
from mlc.recipe import parse_inputs
from mlc.runtimes.onnxruntime import open_session
from mlc.sources.load import load
from mlc.types import Target
from tests import models_for_export as models
from tests.exporting import assert_alike, exported

MODELS = models.__file__


def test_a_dynamic_batch_holds_at_every_size(workspace):
    net = exported(workspace, models.Net(), None, "image=float32[batch=1..64,3,8,8]")
    assert net.sizes == [{"batch": 2}, {"batch": 1}, {"batch": 64}, {"batch": 3}]
    assert all(check.held and check.error < 1e-4 for check in net.checks)
    assert net.shape("image") == ["batch", "3", "8", "8"]
    assert net.shape("output") == ["batch", "5"]
    assert net.artifact.signature.outputs[0].dims == ("batch", 5)
    with open_session(workspace.save(net.model), Target(), optimize=False) as session:
        image = np.random.default_rng(1).standard_normal((17, 3, 8, 8)).astype(np.float32)
        ours, theirs = session.run({"image": image})["output"], net.original.run({"image": image})["output"]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_origin_says_where_the_model_came_from(workspace):
    net = exported(workspace, f"{MODELS}:net_with_example")
    origin = net.artifact.origin
    assert origin.exporter.startswith("torch.onnx.export(dynamo=True) torch 2.")
    assert (origin.opset, origin.traced, origin.digest) == (20, {}, net.original.digest)
    assert "the module was in training mode; exported in evaluation mode" in origin.notes


def test_nothing_of_this_machine_stays_in_the_file(workspace):
    net = exported(workspace, f"{MODELS}:net_with_example")
    ir.save(net.model, workspace.path / "bare.onnx")
    data = (workspace.path / "bare.onnx").read_bytes()
    assert b"models_for_export" not in data
    assert b"pkg.torch" not in data
    proto = onnx.load_from_string(data)
    assert (proto.producer_name, proto.producer_version, proto.doc_string) == ("mlc", "", "")
    assert not proto.functions
    assert len({node.name for node in proto.graph.node}) == len(proto.graph.node)


def test_weights_keep_their_own_names(workspace):
    net = exported(workspace, f"{MODELS}:net_with_example")
    assert {"features.0.weight", "head.weight", "head.bias"} <= set(net.model.graph.initializers)


def test_the_same_source_gives_the_same_bytes(workspace):
    files = []
    for name in ("first", "second"):
        net = exported(workspace, f"{MODELS}:unet", None, "x=float32[batch=1..2,3,h=32..64/32,32]")
        ir.save(net.model, workspace.path / f"{name}.onnx", external_data=f"{name}.data", size_threshold_bytes=1 << 30)
        files.append((workspace.path / f"{name}.onnx").read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize(("opset", "ir_version"), [(18, 8), (20, 9), (23, 11)])
def test_the_opset_asked_is_the_opset_written(workspace, opset, ir_version):
    same = exported(workspace, models.Same(), torch.randn(2, 3), opset=opset)
    assert same.model.opset_imports == {"": opset}
    assert same.model.ir_version == ir_version == lowest_ir_version(same.model)
    assert same.artifact.origin.opset == opset


@pytest.mark.parametrize("opset", [12, 99])
def test_an_opset_that_the_exporter_has_not_is_an_error(workspace, opset):
    with pytest.raises(UsageError, match=f"opset {opset}"):
        exported(workspace, models.Same(), torch.randn(2, 3), opset=opset)


def test_outputs_that_are_inputs_or_each_other_keep_their_names(workspace):
    same = exported(workspace, models.Same(), torch.randn(2, 3), "x=float32[n=1..4,3]")
    assert (same.inputs, same.outputs) == (["x"], ["output.0", "output.1", "output.2"])


def test_an_input_of_the_same_name_as_an_output_keeps_it_and_an_unused_input_stays(workspace):
    echo = exported(workspace, models.Echo(), (torch.randn(2, 3), torch.randn(4)))
    assert echo.inputs == ["image", "unused"]
    assert echo.outputs == ["output.image", "sum"]
    assert any("output.image" in note for note in echo.artifact.origin.notes)


@pytest.mark.parametrize(
    ("module", "names"),
    [(models.Detector, ["boxes", "hidden.0", "hidden.1"]), (models.NamedTupleOut, ["logits", "scores.0"])],
)
def test_nested_outputs_are_named_by_their_path(workspace, module, names):
    nested = exported(workspace, module(), torch.randn(2, 3))
    assert nested.outputs == names


class Unnamed(nn.Module):
    """Outputs of which one has the key that is nothing."""

    def __init__(self, *keys):
        super().__init__()
        self.keys = keys

    def forward(self, x):
        return {"": x * 2, **{key: x + place for place, key in enumerate(self.keys)}}


@pytest.mark.parametrize("keys", [(), ("other",)])
def test_an_output_whose_key_is_nothing_has_a_name(workspace, keys):
    net = exported(workspace, Unnamed(*keys), None, "x=float32[batch=1..5,3]")
    assert net.outputs == ["output", *keys]
    assert_alike(workspace, net, np.ones((4, 3), np.float32))


def test_an_output_whose_key_is_nothing_beside_one_of_its_name_is_refused(workspace):
    with pytest.raises(SourceError, match="two outputs of Unnamed are called output"):
        exported(workspace, Unnamed("output"), None, "x=float32[batch=1..5,3]")


def test_an_input_whose_key_is_nothing_is_refused(workspace):
    with pytest.raises(SourceError, match='a tensor of the example has the key ""'):
        exported(workspace, models.Batch(), ({"": torch.ones(2, 3)},))


def test_a_lone_dict_input_is_named_by_its_keys(workspace):
    example = {"ids": torch.arange(4), "scale": torch.randn(4)}
    batch = exported(workspace, models.Batch(), example, "ids=int64[n=1..9]", "scale=float32[n]")
    assert (batch.inputs, batch.outputs) == (["ids", "scale"], ["logits"])
    assert batch.shape("logits") == ["n"]


def test_nested_optional_and_constant_arguments(workspace):
    x = torch.randn(2, 3)
    nested = exported(workspace, models.Nested(), (x, (x, x), None, 2.5))
    assert nested.inputs == ["x", "states.0", "states.1"]
    assert "the argument factor = 2.5 is fixed in the model" in nested.original.notes


def test_scalars_bools_integers_and_float64(workspace):
    example = (
        torch.randn(2, 3, dtype=torch.float64),
        torch.tensor(2.0, dtype=torch.float64),
        torch.tensor([[True, False, True]]),
        torch.tensor(3),
    )
    scalars = exported(workspace, models.Scalars(), example)
    assert [str(value.dtype) for value in scalars.model.graph.inputs] == ["DOUBLE", "DOUBLE", "BOOL", "INT64"]
    assert scalars.shape("factor") == []
    assert [output.dtype for output in scalars.artifact.signature.outputs] == ["float64", "bool", "int64"]


def test_dims_shared_by_two_inputs(workspace):
    pair = exported(workspace, models.Pair(), None, "a=float32[n=1..9,m=1..9]", "b=float32[n,m]")
    assert pair.shape("a") == pair.shape("b") == pair.shape("output") == ["n", "m"]
    assert {"n": 9, "m": 2} in pair.sizes
    assert {"n": 2, "m": 9} in pair.sizes


def test_a_sum_of_dims_and_an_empty_past(workspace):
    cache = exported(
        workspace,
        models.Cache(),
        None,
        "past=float32[batch=1..4,past=0..6,8]",
        "x=float32[batch,seq=1..6,8]",
        "mask=float32[batch,total=past+seq]",
    )
    assert cache.shape("mask") == ["batch", "total"]
    assert cache.shape("output.1") == ["batch", "total", "8"]
    assert {"batch": 1, "past": 0, "seq": 1} in cache.sizes


def test_a_stepped_range_through_a_model_that_halves_its_input(workspace):
    unet = exported(workspace, models.UNet(), None, "x=float32[batch=1..2,3,h=32..64/32,w=32..96/32]")
    assert unet.shape("x") == ["batch", "3", "h", "w"]
    assert unet.shape("output") == ["batch", "8", "h", "w"]
    assert {"batch": 2, "h": 64, "w": 32} in unet.sizes
    assert unet.artifact.origin.traced == {"batch": 2, "h": 32, "w": 32}


def test_an_example_of_one_row_is_traced_with_two(workspace):
    pair = exported(
        workspace, models.Pair(), (torch.randn(1, 3), torch.randn(1, 3)), "a=float32[n=1..8,3]", "b=float32[n,3]"
    )
    assert pair.shape("output") == ["n", "3"]
    assert pair.sizes[0] == {"n": 1}
    assert any(note.startswith("traced at n=2") for note in pair.artifact.origin.notes)


def test_tied_weights_are_stored_once(workspace):
    tied = exported(workspace, f"{MODELS}:tied", None, "ids=int64[batch=1..3,seq=1..5]")
    tensors = {name: value.const_value for name, value in tied.model.graph.initializers.items()}
    large = [name for name, tensor in tensors.items() if tensor is not None and tensor.nbytes > 4096]
    assert large == ["head.weight"]


def test_a_small_table_and_its_head_are_stored_once_as_the_table(workspace):
    tied = exported(workspace, models.TableHead(), torch.arange(6).reshape(2, 3))
    assert [(name, list(value.shape or ())) for name, value in tied.model.graph.initializers.items()] == [
        ("e.weight", [9, 4])
    ]
    (table,) = [node.inputs[0] for node in tied.model.graph if node.op_type == "Gather"]
    assert table is tied.model.graph.initializers["e.weight"]


def test_the_ends_of_a_range_are_compared_too(workspace):
    original = load(models.TableHead(), parse_inputs(["ids=int64[2,3] in 0..8"]), torch.arange(6).reshape(2, 3))
    answers, _ = references(original, None, 0)
    _, checks = export(original, answers, workspace)
    assert [check.values for check in checks] == ["", "ids = 0", "ids = 8"]
    wrong = replace(answers[-1], outputs={name: 2 * array for name, array in answers[-1].outputs.items()})
    with pytest.raises(SourceError, match="differs from the original at fixed sizes with ids = 8: output differs"):
        export(original, [*answers[:-1], wrong], workspace)


def test_the_module_is_left_as_it_was_found(workspace):
    module = models.Net()
    module.features[1].eval()
    module.head.weight.requires_grad_(False)
    module.head.bias.grad = torch.ones(5)
    modes = [part.training for part in module.modules()]
    state = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    exported(workspace, module, torch.randn(2, 3, 8, 8))
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(tensor, state[key]) for key, tensor in module.state_dict().items())
    assert not module.head.weight.requires_grad
    assert module.head.bias.requires_grad
    assert torch.equal(module.head.bias.grad, torch.ones(5))


def test_state_that_forward_changes_is_frozen_and_said(workspace):
    module = models.Counter()
    counter = exported(workspace, module, torch.zeros(2, 3) + 1)
    assert (module.count, float(module.get_buffer("calls"))) == (0, 0.0)
    (note,) = [note for note in counter.artifact.origin.notes if "frozen" in note]
    assert "calls, count" in note


def test_hooks_that_forward_installs_do_not_stay(workspace):
    """As transformers installs hooks at the first call, and remembers that it did."""

    class Hooked(nn.Module):
        installed = False

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.seen = []

        def forward(self, x):
            if not self.installed:
                self.layer.register_forward_hook(lambda *call: self.seen.append(call[-1]))
                self.installed = True
            self.seen.clear()
            self.layer(x)
            return torch.stack(self.seen).sum(0)

    module = Hooked()
    hooked = exported(workspace, module, torch.randn(2, 3))
    assert all(check.held for check in hooked.checks)
    assert (len(module.layer._forward_hooks), module.installed) == (0, False)


def test_the_fast_path_of_transformer_layers_is_not_taken(workspace):
    fast = torch.backends.mha.get_fastpath_enabled()
    encoder = exported(workspace, models.Encoder(), None, "x=float32[n=1..3,s=1..5,16]")
    assert encoder.shape("output") == ["n", "s", "16"]
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_recurrent_layers_take_sequences_of_any_length(workspace):
    recurrent = exported(workspace, models.Recurrent(), None, "x=float32[n=1..4,s=1..9,4]")
    assert (recurrent.shape("output.0"), recurrent.shape("output.1")) == (["n", "s", "8"], ["1", "n", "8"])
    assert "GRU" in {node.op_type for node in recurrent.model.graph}


def test_a_size_that_follows_from_values_is_unknown(workspace):
    class Positive(nn.Module):
        def forward(self, x):
            return x[x > 0], x.nonzero()

    positive = exported(workspace, Positive(), torch.randn(3, 4))
    assert [output.dims for output in positive.artifact.signature.outputs] == [(None,), (None, 2)]


def test_a_module_that_prints_leaves_stdout_alone(workspace, capfd):
    class Talks(nn.Module):
        def forward(self, x):
            print("hello")  # noqa: T201
            return x + 1

    exported(workspace, Talks(), torch.ones(2))
    assert capfd.readouterr().out == ""


def test_rfft_and_integer_outputs(workspace):
    assert exported(workspace, models.Spectrum(), torch.randn(2, 8)).checks[0].held
    assert exported(workspace, models.Rank(), torch.randn(2, 8), "x=float32[n=1..5,8]").outputs == [
        "output.0",
        "output.1",
    ]


def test_a_mask_of_minus_infinity_is_no_broken_weight(workspace):
    assert exported(workspace, models.MaskBuffer(), torch.randn(2, 4, 4)).checks[0].held


def test_names_that_collide_with_the_exporters_own(workspace):
    class Collide(nn.Module):
        def forward(self, add, linear):
            return {"val_0": add + linear, "mul": add * linear}

    collide = exported(workspace, Collide(), (torch.randn(2), torch.randn(2)))
    assert (collide.inputs, collide.outputs) == (["add", "linear"], ["val_0", "mul"])


def test_the_compiled_module_is_unwrapped(workspace):
    net = exported(workspace, torch.compile(models.Same()), torch.randn(2, 3))
    assert any("OptimizedModule" in note for note in net.original.notes)


def test_an_onnx_file_keeps_its_opset_version_and_overridable_defaults(workspace, tmp_path):
    graph = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 13]>
        g (float[batch, 3] x, float[3] scale) => (float[batch, 3] y) <float[3] scale = {1.0, 2.0, 3.0}>
        { a = Mul (x, scale) y = Relu (a) }
        """
    )
    graph.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/someone/model.py")
    graph.graph.initializer[0].doc_string = "/home/someone/model.py"
    graph.metadata_props.add(key="labels", value="cat,dog")
    path = tmp_path / "model.onnx"
    onnx.save(graph, path)
    file = exported(workspace, str(path), None, "x=float32[batch=1..8,3]")
    assert (file.model.opset_imports[""], file.model.ir_version, file.artifact.origin.opset) == (13, 8, 13)
    assert file.inputs == ["x", "scale"]
    assert [spec.name for spec in file.artifact.signature.inputs] == ["x"]
    assert file.artifact.signature.outputs[0].dims == ("batch", 3)
    assert len({node.name for node in file.model.graph}) == 2
    assert dict(file.model.metadata_props) == {"labels": "cat,dog"}
    assert not any(node.metadata_props for node in file.model.graph)
    assert [check.error for check in file.checks] == [0.0] * 4
    assert b"someone" not in workspace.save(file.model).read_bytes()


@pytest.mark.parametrize(("dtype", "version"), [("FLOAT", 8), ("FLOAT8E4M3FN", 9), ("INT4", 10)])
def test_an_onnx_file_keeps_an_ir_version_that_has_its_types(workspace, tmp_path, dtype, version):
    graph = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[batch, 3] x) => (float[batch, 3] y) { y = Relu (x) }
        """
    )
    kind = onnx.TensorProto.DataType.Value(dtype)
    graph.graph.initializer.append(onnx.helper.make_tensor("codes", kind, [2], [1, 2]))
    path = tmp_path / "model.onnx"
    onnx.save(graph, path)
    file = exported(workspace, str(path), None, "x=float32[batch=1..8,3]")
    assert file.model.ir_version == version


@pytest.mark.parametrize("first", ["2,5,6", "batch=1..4,5,6"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_are_exported_again_in_one_process(workspace, kind, first):
    """torch keeps the kernel that it traced first, which fixes the length, and the loop that it compiled for a size."""
    for dims in (first, "batch=1..4,5,6"):
        made = exported(workspace, kind(6, 5, batch_first=True), None, f"input=float32[{dims}]")
        assert made.inputs == ["input"]
