"""Modules that are quantized already: their own scales and codes are in the file, or one sentence says why not."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.ao.quantization as eager
from torch import nn
from torch.ao.quantization import quantize_fx

import mlc
from mlc.compare import Difference
from mlc.emulate import saturation_proof
from mlc.errors import PassError, SourceError, UsageError
from mlc.exporting.cache import Cache
from mlc.exporting.checked import check, export
from mlc.exporting.quantized import check as quantized_check
from mlc.exporting.quantized.check import CodeJudge, sites_of
from mlc.probes import references
from mlc.rewriting import check_files
from mlc.runtimes.onnxruntime import open_session
from mlc.sources.load import load
from mlc.sources.torch.module import TorchOriginal
from mlc.types import Target
from tests.exporting import exported

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
    pytest.mark.filterwarnings("ignore::UserWarning:torchao"),
]

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
INT4: torch.dtype = torch.int4  # type: ignore[attr-defined]  # its stubs lack the small ones
BATCH = "x=float32[batch=1..5,3,8,8]"


class Net(nn.Module):
    """A convolution, a sum, pooling and a linear layer between the two ends of quantization."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.quant, self.dequant = eager.QuantStub(), eager.DeQuantStub()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
        self.sum = torch.ao.nn.quantized.FloatFunctional()
        self.pool, self.head = nn.AdaptiveAvgPool2d(2), nn.Linear(32, 10)

    def forward(self, x):
        x = self.relu(self.norm(self.conv(self.quant(x))))
        x = self.pool(self.sum.add(x, x)).flatten(1)
        return self.dequant(self.head(x))


def matrices():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16)).eval()


FUSED = [["conv", "norm", "relu"]]


def converted():
    module = eager.fuse_modules(Net().eval(), FUSED)
    module.qconfig = eager.get_default_qconfig("x86")
    eager.prepare(module, inplace=True)
    module(IMAGES)
    return eager.convert(module, inplace=True)


def trained(qconfig=None):
    """Prepared for quantization-aware training, and trained for two steps."""
    module = eager.fuse_modules_qat(Net().train(), FUSED)
    module.qconfig = qconfig or eager.get_default_qat_qconfig("x86")
    eager.prepare_qat(module, inplace=True)
    module(IMAGES)
    module(IMAGES)
    return module


def plain_fakes():
    """The older fake-quantize modules, which are not fused with their observers: one scale for each weight."""
    observer = eager.FakeQuantize.with_args(observer=eager.MovingAverageMinMaxObserver, quant_min=0, quant_max=127)
    return trained(eager.QConfig(activation=observer, weight=eager.default_weight_fake_quant))


def traced_by_fx(convert=quantize_fx.convert_fx):
    net: Any = Net().eval()
    net.quant = net.dequant = nn.Identity()
    module = quantize_fx.prepare_fx(net, eager.get_default_qconfig_mapping("x86"), (IMAGES,))
    module(IMAGES)
    return convert(module)


def by_torchao(config: str, **options):
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    module = matrices()
    quantization.quantize_(module, getattr(quantization, config)(**options))
    return module


def granularity(name: str, *arguments):
    module = pytest.importorskip("torchao.quantization.granularity", reason="torchao is not installed")
    return getattr(module, name)(*arguments)


def groups(size=32):
    return granularity("PerGroup", size)


def by_pt2e(module, example, *, dynamic=False, shapes=None, training=False):
    steps = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e", reason="torchao is not installed")
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    graph = torch.export.export(module, (example,), dynamic_shapes=shapes).module()
    config = x86.get_default_x86_inductor_quantization_config(is_dynamic=dynamic, is_qat=training)
    prepare = steps.prepare_qat_pt2e if training else steps.prepare_pt2e
    prepared = prepare(graph, x86.X86InductorQuantizer().set_global(config))
    prepared(example)
    return prepared if training else steps.convert_pt2e(prepared)


def images_by_pt2e():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    return by_pt2e(module, IMAGES, shapes=({0: torch.export.Dim("batch", min=1, max=64)},))


def nodes(model, kind):
    return [node for node in model.graph if node.op_type == kind]


def constants(model, kind):
    """Scales and zero points of every node of a kind, as plain lists."""
    found = []
    for node in nodes(model, kind):
        values = [value.const_value for value in node.inputs[1:3]]
        assert all(value is not None for value in values)
        found.append(tuple(np.asarray(value.numpy()).reshape(-1).tolist() for value in values))
    return found


def stored(model, name):
    return model.graph.initializers[name].const_value.numpy()


def float32(numbers):
    return [float(np.float32(number)) for number in numbers]


# whose scales they are


@pytest.mark.parametrize("make", [trained, plain_fakes], ids=["fused", "plain"])
def test_fake_quantize_modules_give_their_scales_and_ranges(workspace, make):
    module = make()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    made = exported(workspace, module, IMAGES[:2])
    order = ("quant", "conv", "sum", "head")
    fakes = [getattr(module, name).activation_post_process for name in order]
    wanted = [(float32(fake.scale), fake.zero_point.tolist()) for fake in fakes]
    assert constants(made.model, "QuantizeLinear") == wanted
    cuts = [[int(value.const_value.numpy()) for value in node.inputs[1:]] for node in nodes(made.model, "Clip")]
    assert cuts == [[0, 127]] * 4
    head = module.head.weight_fake_quant
    weight = module.head.weight / head.scale.reshape(-1, 1)
    np.testing.assert_array_equal(stored(made.model, "head.weight.int8"), weight.detach().round().clamp(-128, 127))
    assert "head.weight" not in made.model.graph.initializers
    assert all(check.held for check in made.checks)
    assert any("observers of" in note and "at rest" in note for note in made.artifact.origin.notes)
    assert any(
        "4 quantizers (uint8 from 0 to 127, one scale); 2 weights (int8" in note for note in made.artifact.origin.notes
    )
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_fake_quantization_that_is_off_stays_off(workspace):
    module = trained()
    module.quant.activation_post_process.disable_fake_quant()
    module.head.weight_fake_quant.disable_fake_quant()
    made = exported(workspace, module, IMAGES[:2])
    assert len(nodes(made.model, "QuantizeLinear")) == 3
    assert "head.weight" in made.model.graph.initializers


def test_eager_modules_give_their_packed_weights(workspace):
    module = converted()
    made = exported(workspace, module, IMAGES[:2], BATCH)
    np.testing.assert_array_equal(stored(made.model, "conv.weight.int8"), module.conv.weight().int_repr().numpy())
    np.testing.assert_array_equal(stored(made.model, "head.weight.int8"), module.head.weight().int_repr().numpy())
    np.testing.assert_array_equal(stored(made.model, "conv.bias"), module.conv.bias().detach().numpy())
    scales = module.head.weight().q_per_channel_scales().float().numpy()
    np.testing.assert_array_equal(stored(made.model, "head.weight.scale"), scales)
    (last,) = [node for node in nodes(made.model, "QuantizeLinear") if node.inputs[0].name == "linear"]
    assert float(last.inputs[1].const_value.numpy()) == np.float32(module.head.scale)
    assert int(last.inputs[2].const_value.numpy()) == module.head.zero_point
    assert {"batch": 5} in made.sizes


@pytest.mark.parametrize("convert", [quantize_fx.convert_fx, quantize_fx.convert_to_reference_fx])
def test_modules_that_fx_quantized(workspace, convert):
    made = exported(workspace, traced_by_fx(convert), IMAGES[:2])
    assert all(check.held for check in made.checks)
    assert {str(value.dtype) for name, value in made.model.graph.initializers.items() if name.endswith("int8")} == {
        "INT8"
    }


def test_a_graph_of_pt2e_live_and_exported(workspace):
    module = images_by_pt2e()
    made = exported(workspace, module, IMAGES, "input=float32[batch=1..9,3,8,8]")
    for number in range(2):
        held = module.get_buffer(f"_frozen_param{number}").numpy()
        np.testing.assert_array_equal(stored(made.model, f"_frozen_param{number}"), held)
    calls = [node for node in module.graph.nodes if "quantize_per_tensor.default" in str(node.target)]
    wanted = [(float32([node.args[1]]), [node.args[2]]) for node in calls if "dequantize" not in str(node.target)]
    assert constants(made.model, "QuantizeLinear") == wanted
    assert {"batch": 9} in made.sizes
    program = torch.export.export(module, (IMAGES,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=9)},))
    again = exported(workspace, program)
    assert constants(again.model, "QuantizeLinear") == wanted


def test_dynamic_scales_of_pt2e_are_computed(workspace):
    made = exported(workspace, by_pt2e(matrices(), ROWS, dynamic=True), ROWS)
    quantizers = nodes(made.model, "QuantizeLinear")
    assert len(quantizers) == 2
    assert all(node.inputs[1].producer() is not None for node in quantizers)
    assert all(check.error < 1e-3 for check in made.checks)


def test_dynamic_eager_layers(workspace):
    module = eager.quantize_dynamic(matrices(), {nn.Linear})
    made = exported(workspace, module, ROWS)
    np.testing.assert_array_equal(stored(made.model, "0.weight.int8"), module[0].weight().int_repr().numpy())
    assert len(nodes(made.model, "Clip")) >= 2  # torch leaves one bit of the activations unused


@pytest.mark.parametrize(
    ("config", "options", "shape", "attributes"),
    [
        ("Int8WeightOnlyConfig", {}, (32,), {"axis": 0}),
        ("Int8WeightOnlyConfig", {"granularity": lambda: granularity("PerTensor")}, (), {}),
        ("Int8WeightOnlyConfig", {"granularity": groups}, (32, 2), {"axis": 1, "block_size": 32}),
    ],
    ids=["by channel", "by tensor", "in groups"],
)
def test_int8_weights_of_torchao(workspace, config, options, shape, attributes):
    module = by_torchao(config, **{key: make() for key, make in options.items()})
    made = exported(workspace, module, ROWS)
    first = nodes(made.model, "DequantizeLinear")[0]
    assert {key: value.as_int() for key, value in first.attributes.items()} == attributes
    np.testing.assert_array_equal(stored(made.model, "0.weight.int8"), module[0].weight.qdata.numpy())
    np.testing.assert_array_equal(stored(made.model, "0.weight.scale"), module[0].weight.scale.numpy().reshape(shape))
    assert made.artifact.origin.opset == (21 if "block_size" in attributes else 20)


@pytest.mark.parametrize(("opset", "dtype"), [(None, "INT4"), (20, "INT8")])
def test_4_bits_are_kept_in_4_where_the_opset_has_them(workspace, opset, dtype):
    module = by_torchao("IntxWeightOnlyConfig", weight_dtype=INT4, granularity=granularity("PerAxis", 0))
    made = exported(workspace, module, ROWS, opset=opset)
    name = f"0.weight.{dtype.lower()}"
    assert str(made.model.graph.initializers[name].dtype) == dtype
    np.testing.assert_array_equal(stored(made.model, name).astype(np.int8), module[0].weight.qdata.numpy())
    assert made.artifact.origin.opset == (opset or 21)
    assert any("4 bits" in note for note in made.artifact.origin.notes)


def test_blocks_need_an_opset_that_has_them(workspace):
    module = by_torchao("IntxWeightOnlyConfig", weight_dtype=INT4, granularity=groups())
    made = exported(workspace, module, ROWS)
    assert made.artifact.origin.opset == 21
    assert made.model.ir_version >= 10
    with pytest.raises(UsageError, match="scales for blocks, which opset 20 has not"):
        exported(workspace, module, ROWS, opset=20)


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ("Int8DynamicActivationInt8WeightConfig", {}),
        ("Int8DynamicActivationIntxWeightConfig", {"weight_dtype": INT4, "weight_granularity": groups}),
    ],
)
@pytest.mark.parametrize("shape", [(3, 64), (2, 5, 64)], ids=["rows", "sequences"])
def test_dynamic_activations_of_torchao_have_a_scale_for_each_row(workspace, config, options, shape):
    module = by_torchao(config, **{key: made() if callable(made) else made for key, made in options.items()})
    example = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    axes = ["batch=1..4", "seq=1..9"][: len(shape) - 1]
    made = exported(workspace, module, example, f"input=float32[{','.join(axes)},64]")
    assert all(node.attributes["axis"].as_int() == 0 for node in nodes(made.model, "QuantizeLinear"))
    assert len(made.sizes) > 2
    assert any("2 quantizers (int8, a scale for each row)" in note for note in made.artifact.origin.notes)


def test_functions_that_fake_quantize(workspace):
    class Functions(nn.Module):
        scale: torch.Tensor
        zero: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(6, 6)
            self.register_buffer("scale", torch.linspace(0.02, 0.07, 6))
            self.register_buffer("zero", torch.arange(6, dtype=torch.int32) - 3)

        def forward(self, x):
            weight = torch.fake_quantize_per_channel_affine(self.layer.weight, self.scale, self.zero, 0, -8, 7)
            x = torch.fake_quantize_per_tensor_affine(x, 0.05, 7, 0, 127)
            x = nn.functional.linear(x, weight, self.layer.bias)
            return torch.fake_quantize_per_channel_affine(x, self.scale, self.zero, 1, -128, 127)

    module = Functions()
    x = 20 * torch.randn(4, 6, generator=torch.Generator().manual_seed(0))  # far beyond the range
    made = exported(workspace, module, x)
    assert constants(made.model, "QuantizeLinear") == [
        (float32([0.05]), [7]),
        (module.scale.tolist(), module.zero.tolist()),
    ]
    last = nodes(made.model, "QuantizeLinear")[1]
    assert last.attributes["axis"].as_int() == 1
    assert str(made.model.graph.initializers["layer.weight.int4"].dtype) == "INT4"
    assert all(check.error == 0 for check in made.checks)


def test_a_quantized_tensor_as_buffer(workspace):
    class Holds(nn.Module):
        table: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            values, scales = torch.randn(5, 6), torch.full((5,), 0.02)
            zeros = torch.zeros(5, dtype=torch.int64)
            self.register_buffer("table", torch.quantize_per_channel(values, scales, zeros, 0, torch.qint8))

        def forward(self, x):
            return nn.functional.linear(x, self.table.dequantize())

    module = Holds()
    made = exported(workspace, module, torch.randn(4, 6))
    np.testing.assert_array_equal(stored(made.model, "table.int8"), module.table.int_repr().numpy())
    assert module.table.is_quantized
    assert load(module, (), torch.randn(4, 6)).digest != load(Holds(), (), torch.randn(4, 6)).digest


# what is done with them


def test_a_transposed_weight_is_turned_before_it_is_dequantized(workspace):
    module = by_torchao("Int8WeightOnlyConfig")
    made = exported(workspace, module, torch.randn(2, 3, 64), "input=float32[batch=1..4,seq=1..5,64]")
    assert nodes(made.model, "Transpose") == []
    assert [node.attributes["axis"].as_int() for node in nodes(made.model, "DequantizeLinear")] == [1, 1]
    assert all(node.inputs[1].producer().op_type == "DequantizeLinear" for node in nodes(made.model, "MatMul"))


def test_a_weight_that_is_read_twice_is_stored_once(workspace):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 64)

        def forward(self, x):
            return self.layer(torch.relu(self.layer(x)))

    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    module = Twice().eval()
    quantization.quantize_(module, quantization.Int8WeightOnlyConfig())
    made = exported(workspace, module, torch.randn(2, 3, 64))
    stored_codes = [name for name, value in made.model.graph.initializers.items() if str(value.dtype) == "INT8"]
    assert [name for name in stored_codes if "zero_point" not in name] == ["layer.weight.int8"]


def test_what_the_module_keeps_float_is_not_quantized_by_the_runtime(workspace):
    """onnxruntime gives a float product between codes 8-bit weights of its own, silently."""

    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8 * 36, 5)

        def forward(self, x):
            x = torch.fake_quantize_per_tensor_affine(x, 0.03, 128, 0, 255)
            x = torch.fake_quantize_per_tensor_affine(self.conv(x).relu(), 0.02, 0, 0, 255)
            return torch.fake_quantize_per_tensor_affine(self.head(x.flatten(1)), 0.002, 128, 0, 255)

    made = exported(workspace, Between(), IMAGES[:2])
    path = workspace.save(made.model, "between")
    with open_session(path, Target()) as session:
        actual = session.run(made.original.example)["output"]
    assert np.abs(actual - made.original.run(made.original.example)["output"]).max() <= 0.0021


def test_the_proof_speaks_of_these_too(workspace):
    narrow = exported(workspace, trained(), IMAGES[:2])
    assert saturation_proof(narrow.model) == (
        "no product sum saturates on: onnxruntime (x86 without VNNI), OpenVINO (x86 without VNNI)",
    )
    whole = saturation_proof(exported(workspace, images_by_pt2e(), IMAGES).model)
    assert len(whole) == 2
    assert all("may saturate" in sentence and "conv2d" in sentence for sentence in whole)
    signed = exported(workspace, by_torchao("Int8DynamicActivationInt8WeightConfig"), ROWS)
    first, second = saturation_proof(signed.model)
    assert first == "no product sum saturates on: onnxruntime (x86 without VNNI)"
    assert "may saturate on OpenVINO" in second
    assert saturation_proof(exported(workspace, by_torchao("Int8WeightOnlyConfig"), ROWS).model) == ()


@pytest.mark.usefixtures("quick")
def test_the_whole_line_ships_it(tmp_path):
    report = mlc.compile(trained(), IMAGES[:2], out=tmp_path / "out", cache=False)
    assert report.saturation[0].startswith("no product sum saturates")
    assert any("taken over" in note for note in report.origin.notes)
    assert any(node.op_type == "QuantizeLinear" for node in ir.load(tmp_path / "out" / "model.onnx").graph)


def test_nothing_is_quantized_twice():
    original = mlc.load(trained(), IMAGES[:2])
    artifact = mlc.export(original)
    with pytest.raises(PassError) as caught:
        mlc.rewrite(artifact, original, passes=["int8-static"], calibrate=[{"x": IMAGES.numpy()}])
    assert "its weight mul.dequantized is quantized already" in caught.value.hint


def test_an_export_from_the_cache_is_judged_by_its_codes_too(workspace, tmp_path, monkeypatch):
    original = load(trained(), (), IMAGES[:2])
    kept, _ = references(original, None, 0)
    cache = Cache(tmp_path / "cache")
    export(original, kept, workspace, cache=cache)
    counted = []
    judge = quantized_check._judged

    def counting(site, *others):
        counted.append(site.number)
        return judge(site, *others)

    monkeypatch.setattr(quantized_check, "_judged", counting)
    artifact, _ = export(original, kept, workspace, cache=cache)
    assert any("came from the cache" in note for note in artifact.origin.notes)
    assert len(counted) == 4 * len(kept)


# edges between two codes


def torch_original(module, example):
    original = load(module, (), example)
    assert isinstance(original, TorchOriginal)
    return original


class Ties(nn.Module):
    """Every element is on the edge between two codes, where torch's kernel rounds behind the zero point."""

    def forward(self, x):
        codes = torch.quantize_per_tensor(x, 0.5, 1, torch.quint8)
        return codes.dequantize() @ torch.arange(12.0).reshape(6, 2)


def test_codes_on_the_edge_may_fall_to_the_other_side(workspace):
    x = torch.arange(24.0).reshape(4, 6) / 2 + 0.25
    made = exported(workspace, Ties(), x)
    assert any("24 codes on the edge to the next one" in note for note in made.artifact.origin.notes)
    assert all(check.held for check in made.checks)


def test_a_written_file_holds_where_it_is_what_the_judged_export_gives(workspace):
    """Without optimizations it is not what torch gives: codes on the edge fell to the other side."""
    made = exported(workspace, Ties(), torch.arange(240.0).reshape(40, 6) / 2 + 0.25)
    kept, _ = references(made.original, None, 0)
    path = workspace.save(made.model, "ties")
    (alone,) = check_files(path, kept, 1e-3, None, {}, Target())
    (beside,) = check_files(path, kept, 1e-3, None, {}, Target(), path)
    assert not alone.held
    assert beside.held
    other = made.model.clone()
    scale = nodes(other, "QuantizeLinear")[0].inputs[1]
    replace_constant(scale, (scale.const_value.numpy() * 1.02).astype(np.float32))
    (wrong,) = check_files(workspace.save(other, "wrong"), kept, 1e-3, None, {}, Target(), path)
    assert not wrong.held


@pytest.mark.parametrize("size", [(4, 6), (1, 6), (7, 6)])
def test_codes_that_are_not_on_the_edge_may_not(workspace, size, monkeypatch):
    original = torch_original(Ties(), torch.rand(size) * 9)
    kept, _ = references(original, None, 0)
    noted = original.noted

    def others(self, inputs):
        outputs, notes = noted(inputs)
        notes[0].codes.reshape(-1)[0] += 1
        return outputs, notes

    monkeypatch.setattr(TorchOriginal, "noted", others)
    with pytest.raises(SourceError, match=r"1 of \d+ codes of x.quantized are not those of the module"):
        export(original, kept, workspace)


# planted: what is silently wrong elsewhere


def caught(workspace, made, kept, change):
    """The error of the check for a good export into which a fault was put."""
    model = made.model.clone()
    change(model)
    judge = CodeJudge(made.original.noted, model, sites_of(model), workspace)
    with pytest.raises(SourceError) as caught:
        check(model, kept, workspace, judge)
    assert "\n" not in caught.value.message
    return caught.value.message


def replace_constant(value, array):
    value.const_value = ir.tensor(array, name=value.name)


def scaled(model):
    scale = nodes(model, "QuantizeLinear")[1].inputs[1]
    replace_constant(scale, (scale.const_value.numpy() * 1.02).astype(np.float32))


def shifted(model):
    zero = nodes(model, "QuantizeLinear")[1].inputs[2]
    replace_constant(zero, zero.const_value.numpy() + np.uint8(1))


def uncut(model):
    for node in nodes(model, "Clip"):
        node.outputs[0].replace_all_uses_with(node.inputs[0])
        node.inputs[0].producer().name = node.name
        model.graph.remove(node, safe=True)


def turned(model):
    scale = model.graph.initializers["head.weight.scale"]
    replace_constant(scale, scale.const_value.numpy()[::-1].copy())


def test_a_scale_a_zero_point_a_cut_or_an_axis_that_is_wrong_is_caught(workspace):
    made = exported(workspace, trained(), 3 * IMAGES[:2])
    kept, _ = references(made.original, None, 0)
    for change in (scaled, shifted, uncut, turned):
        assert "differs from the original" in caught(workspace, made, kept, change), change


def test_a_wrong_scale_that_does_not_reach_the_output_is_caught(workspace):
    class Hidden(nn.Module):
        def forward(self, x):
            near = torch.fake_quantize_per_tensor_affine(x, 0.05, 0, -128, 127)
            return near * 1e-6 + torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127)

    def change(model):
        scale = nodes(model, "QuantizeLinear")[0].inputs[1]
        assert float(scale.const_value.numpy()) == np.float32(0.05)
        replace_constant(scale, np.array(0.051, np.float32))

    made = exported(workspace, Hidden(), torch.randn(4, 6))
    kept, _ = references(made.original, None, 0)
    assert "are not those of the module" in caught(workspace, made, kept, change)


def test_every_site_is_judged(workspace):
    made = exported(workspace, converted(), IMAGES[:2])
    assert len(sites_of(made.model)) == len(nodes(made.model, "QuantizeLinear")) == 5


def test_an_output_that_is_wrong_given_the_right_codes_is_refused(workspace):
    """Flips excuse codes, never what is computed from them."""
    original = torch_original(Ties(), torch.rand(4, 6))
    kept, _ = references(original, None, 0)
    artifact, _ = export(original, kept, workspace)
    judge = CodeJudge(original.noted, artifact.model, sites_of(artifact.model), workspace)
    wrong = (Difference("output", 0.5, "output differs"),)
    assert not any(judge.judged(kept[0], kept[0], wrong, 1e-3))
    judge.noted = lambda inputs: ({"output": kept[0].outputs["output"] * 1.01}, original.noted(inputs)[1])
    assert any(judge.judged(kept[0], kept[0], wrong, 1e-3))


# what cannot be taken over


def refused(module, example, error=SourceError):
    with pytest.raises(error) as caught:
        load(module, (), example)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300
    assert caught.value.hint
    return f"{caught.value.message}; {caught.value.hint}"


def test_a_module_that_has_seen_no_data():
    module = Net().train()
    module.qconfig = eager.get_default_qat_qconfig("x86")
    eager.prepare_qat(module, inplace=True)
    assert "quant.activation_post_process quantizes and has seen no data" in refused(module, IMAGES)


def test_observers_alone_are_said_to_quantize_nothing(workspace):
    module = Net().eval()
    module.qconfig = eager.get_default_qconfig("x86")
    eager.prepare(module, inplace=True)
    module(IMAGES)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    made = exported(workspace, module, IMAGES[:2])
    assert any("modules that only observe and quantize nothing: " in note for note in made.artifact.origin.notes)
    assert nodes(made.model, "QuantizeLinear") == []
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: by_torchao("Float8WeightOnlyConfig"), "the weight 0.weight is a Float8Tensor of torchao"),
        (lambda: eager.quantize_dynamic(nn.Sequential(nn.LSTM(64, 8)), {nn.LSTM}), "keeps its weights in a form"),
        (lambda: eager.quantize_dynamic(matrices(), {nn.Linear}, torch.float16), "is packed as float32"),
    ],
    ids=["float8", "a packed LSTM", "float16"],
)
def test_forms_that_are_named(make, said):
    assert said in refused(make(), ROWS)


def test_operators_that_are_named(workspace):
    class Packs(nn.Module):
        def forward(self, x):
            codes = torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)
            pair, none = [2, 2], [0, 0]
            return torch.ops.quantized.max_pool2d(codes, pair, pair, none, [1, 1], False).dequantize()

    with pytest.raises(SourceError, match="quantized::max_pool2d quantizes in a way that has no form"):
        exported(workspace, Packs(), IMAGES)


def test_a_scale_that_torch_chooses_inside_an_operator(workspace):
    class Chooses(nn.Module):
        def forward(self, x):
            return torch.quantize_per_tensor_dynamic(x, torch.quint8, False).dequantize()

    with pytest.raises(SourceError, match="chooses the scale by the values of its input"):
        exported(workspace, Chooses(), torch.randn(2, 3))


def test_a_graph_that_was_prepared_in_training_mode():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).train()
    prepared = by_pt2e(module, IMAGES, training=True)
    assert "move_exported_model_to_eval" in refused(prepared, IMAGES)


def test_fake_quantizers_of_torchao_are_converted_first():
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    qat = pytest.importorskip("torchao.quantization.qat", reason="torchao is not installed")
    base = quantization.Int8DynamicActivationIntxWeightConfig(weight_dtype=INT4, weight_granularity=groups())
    module = matrices().train()
    quantization.quantize_(module, qat.QATConfig(base, step="prepare"))
    assert "QATConfig(base_config, step='convert')" in refused(module, ROWS)
    quantization.quantize_(module, qat.QATConfig(base, step="convert"))
    assert load(module, (), ROWS).signature.outputs


def test_integers_that_the_exporter_writes_as_floats_are_named(workspace):
    program = torch.export.export(by_torchao("Int8WeightOnlyConfig"), (ROWS,))
    made = exported(workspace, program)
    assert "integers of the module that are floats in the file: 0.weight.qdata, 2.weight.qdata" in (
        made.artifact.origin.notes
    )
