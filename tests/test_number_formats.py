"""The number formats of `--to`, plans from files, and nodes kept float, over the stages that make a model."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import mlc
from mlc import api
from mlc.cli import main
from mlc.errors import PassError, UsageError
from mlc.pipeline.quantizing import quantizing
from mlc.plan import plan_toml
from mlc.recipe import merge, read_recipe, recipe_toml
from mlc.types import NodePlan, Plan, Target


class Mixed(nn.Module):
    """Convolutions with a head on them, and a feed-forward part behind a normalization."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head, self.norm = nn.Linear(16 * 16, 32), nn.LayerNorm(32)
        self.wide, self.narrow = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x)))).flatten(1)
        x = self.norm(self.head(x))
        return self.narrow(nn.functional.gelu(self.wide(x)))


IMAGES = "x=float32[batch=1..4,3,4,4]"
DATA = [{"x": part} for part in np.random.default_rng(0).standard_normal((16, 1, 3, 4, 4)).astype(np.float32)]


@pytest.fixture(scope="module")
def mixed():
    original = api.load(Mixed().eval(), inputs=[IMAGES])
    return original, api.rewrite(api.export(original), original)


def rewritten(mixed, **asked):
    original, artifact = mixed
    return api.rewrite(artifact, original, passes=["none"], **asked)


def sites(artifact):
    """What each lossy pass converted, without the nodes that only pass codes on."""
    lossy = [step for step in artifact.steps if step.exactness == "lossy"]
    weighted = {node.outputs[0].name for node in artifact.model.graph}
    return {step.spec.name: [site for site in step.sites if site in weighted] for step in lossy}


def test_int8_takes_convolutions_and_their_head_static_and_other_products_dynamic(mixed):
    found = sites(rewritten(mixed, to="int8", calibrate=DATA))
    assert list(found) == ["int8-static", "int8-dynamic"]
    assert len(found["int8-dynamic"]) == 2
    assert "conv2d_1" in found["int8-static"]
    assert "conv2d" not in found["int8-static"]


@pytest.mark.parametrize(("columns", "taken"), [(10, 1), (23, 1), (24, 2)])
def test_int8_leaves_products_of_few_columns_float(columns, taken):
    """Codes of what they read take longer than integers save, and rounding a classifier's head is seen at once."""
    module = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, columns)).eval()
    original = api.load(module, inputs=["input=float32[batch=1..4,64]"])
    made = api.rewrite(api.export(original), original, passes=["none"], to="int8")
    (step,) = (step for step in made.steps if step.sites)
    assert (step.spec.name, len(step.sites)) == ("int8-dynamic", taken)
    alone = api.rewrite(api.export(original), original, passes=["none"], to="int8-dynamic")
    assert [len(step.sites) for step in alone.steps if step.sites] == [2]


@pytest.mark.usefixtures("quick")
def test_the_plan_says_why_a_head_of_few_columns_stays_float(tmp_path):
    module = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).eval()
    report = mlc.compile(module, inputs=["input=float32[batch=1..4,64]"], to="int8", out=tmp_path / "out")
    assert report.plan is not None
    reasons = [
        entry.reason for entry in report.plan.nodes if entry.format == "float" and entry.op in {"Gemm", "MatMul"}
    ]
    assert reasons == ["it has 10 columns: making codes of what it reads takes longer than it saves"]


def test_int8_takes_products_of_few_columns_where_there_are_no_others():
    original = api.load(nn.Linear(64, 10).eval(), inputs=["input=float32[batch=1..4,64]"])
    made = api.rewrite(api.export(original), original, passes=["none"], to="int8")
    assert [step.spec.name for step in made.steps if step.sites] == ["int8-dynamic"]


class Convolutions(nn.Module):
    """A small one on few channels, a depthwise one behind it, one of each kind further down, and a large kernel."""

    def __init__(self, channels=3, kernel=3):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(channels, 16, kernel, padding=kernel // 2)
        self.apart = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.wide = nn.Conv2d(16, 32, 1)
        self.later = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.last = nn.Conv2d(32, 8, 1)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = torch.relu(self.wide(torch.relu(self.apart(x))))
        return self.last(torch.relu(self.later(x)))


@pytest.mark.parametrize(
    ("channels", "kernel", "kept"),
    [
        (1, 3, ["conv2d", "conv2d_1"]),
        (3, 3, ["conv2d", "conv2d_1"]),
        (4, 3, []),
        (3, 7, []),
        (6, 3, ["conv2d", "conv2d_1"]),
    ],
)
def test_convolutions_ahead_of_the_others_whose_integer_kernels_are_slow_stay_float(
    monkeypatch, channels, kernel, kept
):
    module = Convolutions(channels, kernel).eval()
    original = api.load(module, inputs=[f"x=float32[batch=1..4,{channels},8,8]"])
    data = [
        {"x": np.random.default_rng(seed).standard_normal((1, channels, 8, 8)).astype(np.float32)} for seed in range(8)
    ]
    exported = api.export(original)
    every = {f"conv2d{end}" for end in ("", "_1", "_2", "_3")}

    def converted(**asked):
        artifact = api.rewrite(exported, original, passes=["none"], calibrate=data, **asked)
        return every & {site for step in artifact.steps for site in step.sites}

    assert converted(to="int8") == every - set(kept)
    assert converted(to="int8-static") == every
    assert converted(to="int8", target="openvino/cpu") == every
    monkeypatch.setattr("mlc.plan.formats.multiplies_integers", lambda: False)
    assert converted(to="int8", target="openvino/cpu") == every


@pytest.mark.usefixtures("quick")
def test_the_plan_says_why_such_a_convolution_stays_float():
    data = [{"x": np.random.default_rng(seed).standard_normal((1, 3, 8, 8)).astype(np.float32)} for seed in range(8)]
    asked: dict[str, Any] = {"inputs": ["x=float32[batch=1..4,3,8,8]"], "to": "int8", "calibrate": data}
    plan = mlc.compile(Convolutions().eval(), **asked, keep_float=["conv2d_1"]).plan
    assert plan is not None
    reasons = {entry.node: entry.reason for entry in plan.nodes if entry.format == "float"}
    slow = "and reads floats: its integer kernel takes longer than the float one"
    assert reasons["conv2d"] == f"it has 3 input channels, {slow}"
    assert reasons["conv2d_1"] == "kept float: asked for"


def test_a_product_behind_nothing_but_such_a_convolution_is_dynamic():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 16)).eval()
    original = api.load(module, inputs=["input=float32[batch=1..4,3,8,8]"])
    data = [{"input": np.ones((1, 3, 8, 8), np.float32)}]
    artifact = api.rewrite(api.export(original), original, to="int8", calibrate=data)
    assert [step.spec.name for step in artifact.steps if step.exactness == "lossy"] == ["int8-dynamic"]


def test_a_network_without_convolutions_needs_no_data_for_int8():
    torch.manual_seed(0)
    module = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 8)).eval()
    original = api.load(module, inputs=["input=float32[batch=1..4,32]"])
    artifact = api.rewrite(api.export(original), original, to="int8")
    assert [step.spec.name for step in artifact.steps if step.exactness == "lossy"] == ["int8-dynamic"]


def test_convolutions_without_data_are_an_error(mixed):
    with pytest.raises(UsageError, match="int8-static needs calibration data"):
        rewritten(mixed, to="int8")


@pytest.mark.parametrize(
    ("target", "has_products", "formats"),
    [
        ("cpu", False, ["int8-static", "int8-dynamic"]),
        ("cpu:native", False, ["int8-static", "int8-dynamic"]),
        ("openvino/cpu", True, ["int8-static"]),
        ("openvino", True, ["int8-static"]),
        ("openvino/cpu", False, ["int8-static", "int8-weights"]),
        ("openvino", False, ["int8-static", "int8-weights"]),
        ("openvino:cpu", False, ["int8-static", "int8-weights"]),
        ("openvino/gpu", False, ["int8-static"]),
        ("openvino/npu", False, ["int8-static"]),
        ("openvino:gpu.0", False, ["int8-static"]),
        ("webgpu", False, ["int8-weights"]),
        ("cuda:0", False, ["int8-weights"]),
    ],
)
def test_what_int8_is_made_of_depends_on_the_target_and_on_the_cpu(monkeypatch, target, has_products, formats):
    monkeypatch.setattr("mlc.plan.formats.multiplies_integers", lambda: has_products)
    asked = quantizing(merge(None, {"source": "model.onnx", "to": "int8", "target": target}))
    assert [spec.name for spec in asked.passes] == formats
    options = {spec.name: dict(spec.options) for spec in asked.passes}
    smooth = {"smooth": True} if formats == ["int8-static"] else {}
    assert options.get("int8-static", {}) == ({"correct_bias": True, **smooth} if "int8-static" in formats else {})


@pytest.mark.parametrize("given", [{}, {"calibrate": "c.npz"}, {"data": "d.npz"}, {"statistics": "s.npz"}])
def test_columns_are_scaled_before_products_where_there_is_data(given):
    """Without any, a model whose products are all dynamic is quantized all the same."""
    asked = quantizing(merge(None, {"source": "model.onnx", "to": "int8", **given}))
    assert dict(asked.passes[1].options) == ({"smooth": True} if given else {})


@pytest.mark.parametrize(
    ("target", "has_products", "reserve"),
    [
        ("cpu", True, ["int8-weights"]),
        ("openvino/cpu", True, ["int8-weights"]),
        ("openvino", True, ["int8-weights"]),
        ("openvino/cpu", False, []),
        ("openvino/gpu", True, []),
        ("webgpu", True, []),
    ],
)
def test_what_outliers_of_int8_get_depends_on_the_target(monkeypatch, target, has_products, reserve):
    monkeypatch.setattr("mlc.plan.formats.multiplies_integers", lambda: has_products)
    asked = quantizing(merge(None, {"source": "model.onnx", "to": "int8", "target": target}))
    assert [spec.name for spec in asked.reserve] == reserve


def test_data_that_a_target_cannot_use_is_an_error_that_says_why(mixed):
    with pytest.raises(UsageError, match="no pass calibrates: int8 is int8-weights on webgpu"):
        rewritten(mixed, to="int8", target=Target(provider="webgpu"), calibrate=DATA)


def test_why_a_convolution_has_no_form_in_blocks_is_not_that_its_integer_kernel_is_slow():
    original = api.load(Convolutions().eval(), inputs=["x=float32[batch=1..4,3,8,8]"])
    with pytest.raises(PassError, match="have no node to convert") as caught:
        api.rewrite(api.export(original), original, passes=["none"], to="int4-weights")
    reason = "its weight is not a matrix"
    assert caught.value.hint == f"conv2d: {reason}; conv2d_1: {reason}; conv2d_2: {reason}; and 2 more"


def test_why_a_format_converted_nothing_is_said_once_for_each_node():
    original = api.load(Convolutions().eval(), inputs=["x=float32[batch=1..4,3,8,8]"])
    with pytest.raises(PassError, match="int8-weights converted no node") as caught:
        api.rewrite(api.export(original), original, passes=["none"], to="int8-weights")
    assert caught.value.hint.count("conv2d:") == 1
    assert caught.value.hint.count("its weight is not a matrix") == 3


def test_4_bits_have_8_beside_them():
    asked = quantizing(merge(None, {"source": "model.onnx", "to": "int4-weights"}))
    assert [spec.name for spec in asked.passes] == ["int4-weights", "int8-weights"]


def test_options_of_a_format_are_those_of_its_pass():
    recipe = merge(None, {"source": "m.onnx", "to": "int8", "passes": ["int8-static:method=percentile"]})
    passes = quantizing(recipe).passes
    assert [(spec.name, spec.options) for spec in passes] == [
        ("int8-static", (("method", "percentile"),)), ("int8-dynamic", ()),
    ]  # fmt: skip


def test_nodes_are_kept_float(mixed):
    found = sites(rewritten(mixed, to="int8", calibrate=DATA, keep_float=["conv2d"]))
    assert "conv2d" not in found["int8-static"]
    assert "conv2d_1" in found["int8-static"]
    with pytest.raises(UsageError, match="no node is called 'conv3d'"):
        rewritten(mixed, to="int8", calibrate=DATA, keep_float=["conv3d"])


@pytest.mark.usefixtures("quick")
def test_what_loses_nothing_itself_and_a_plan_that_is_overruled_are_notes(tmp_path):
    plan = plan_of(tmp_path, conv2d="int8-static", relu="int8-static", conv2d_1="int8-static")
    report = mlc.compile(
        Mixed().eval(), inputs=[IMAGES], passes=["none"], plan=plan, calibrate=DATA, keep_float=["relu", "conv2d_1"]
    )
    assert (
        "kept float: Relu relu, which lose nothing themselves; keep those float that read what they give"
        in report.notes
    )
    assert "relu, conv2d_1 stay float as asked, whatever the plan gives them" in report.notes


class Summed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

    def forward(self, x):
        return self.last(self.first(x) + self.second(x))


@pytest.mark.usefixtures("quick")
def test_what_the_runtime_computes_on_integers_though_it_was_kept_float_is_a_note():
    for kept, told in ((["add*"], True), (["add*", "conv2d", "conv2d_1"], False)):
        asked: dict[str, Any] = {
            "inputs": ["x=float32[batch=1..4,4,4,4]"],
            "calibrate": [{"x": np.repeat(DATA[0]["x"], 4, 0).reshape(-1, 4, 4, 4)}],
        }
        report = mlc.compile(Summed().eval(), to="int8", **asked, keep_float=kept)
        assert any("which onnxruntime computes on integers" in note for note in report.notes) == told


@pytest.mark.usefixtures("quick")
def test_options_of_a_plan_that_are_overruled_are_a_note(tmp_path):
    plan = plan_of(tmp_path, conv2d="int8-static")
    plan.write_text('[options]\nint8-static = "method=mse"\n' + plan.read_text())
    for passes, told in (
        (["none", "int8-static:method=percentile"], True),
        (["none", "int8-static:method=mse"], False),
    ):
        report = mlc.compile(Mixed().eval(), inputs=[IMAGES], passes=passes, plan=plan, calibrate=DATA)
        assert ("--pass overrules the plan's options int8-static:method=mse" in report.notes) == told


def test_nothing_to_keep_float_is_an_error(mixed):
    with pytest.raises(UsageError, match="nothing is quantized"):
        rewritten(mixed, keep_float=["conv2d"])


def plan_of(tmp_path, **formats):
    path = tmp_path / "plan.toml"
    path.write_text(plan_toml(Plan(tuple(NodePlan(name, "", kind, "mine") for name, kind in formats.items()))))
    return path


def test_what_another_pass_made_is_not_said_to_be_refused(mixed, tmp_path):
    plan = plan_of(tmp_path, conv2d_1="int8-static", linear_1="fp16")
    steps = [step for step in rewritten(mixed, plan=plan, calibrate=DATA).steps if step.exactness == "lossy"]
    assert [step.spec.name for step in steps] == ["int8-static", "fp16"]
    own = {value.name for node in mixed[1].model.graph for value in node.outputs}
    assert {each.site for step in steps for each in step.refused} <= own


def test_a_plan_from_a_file_decides(mixed, tmp_path):
    found = sites(rewritten(mixed, plan=plan_of(tmp_path, conv2d_1="int8-static"), calibrate=DATA))
    assert "conv2d_1" in found["int8-static"]
    assert "conv2d" not in found["int8-static"]


def test_a_plan_that_a_pass_cannot_keep_is_an_error(mixed, tmp_path):
    with pytest.raises(PassError, match="the plan gives int8-dynamic to Conv conv2d, which stays float"):
        rewritten(mixed, plan=plan_of(tmp_path, conv2d="int8-dynamic", linear_1="int8-dynamic"))


@pytest.mark.usefixtures("quick")
def test_formats_that_nodes_without_weights_do_not_get_are_a_note(tmp_path):
    plan = plan_of(tmp_path, conv2d="int8-static", relu="int8-static", layer_norm="int8-static", gelu="int8-static")
    report = mlc.compile(Mixed().eval(), inputs=[IMAGES], passes=["none"], plan=plan, calibrate=DATA)
    (note,) = (note for note in report.notes if note.startswith("the plan gives"))
    assert "int8-static to LayerNormalization layer_norm (normalizations lose too much in 8 bits)" in note
    assert "int8-static to Gelu gelu" in note
    assert " relu " not in note


def test_a_plan_and_a_number_format_are_an_error(tmp_path):
    path = plan_of(tmp_path, y="int8-static")
    with pytest.raises(UsageError, match="a plan and a number format"):
        quantizing(merge(None, {"source": "m.onnx", "plan": str(path), "to": "int8"}))


def test_a_pass_to_which_a_plan_gives_no_node_does_not_run(tmp_path):
    path = plan_of(tmp_path, y="int8-static")
    asked = quantizing(merge(None, {"source": "m.onnx", "plan": str(path), "passes": ["fp16"]}))
    assert [spec.name for spec in asked.passes] == ["int8-static"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("to", "beside"), [("int8", "int8-weights:block=32"), ("int8-static", "int8-dynamic")])
def test_a_plan_gives_the_same_bytes_beside_a_pass_that_chose_before_the_format(tmp_path, to, beside):
    asked: dict[str, Any] = {"inputs": [IMAGES], "passes": [beside], "calibrate": DATA}
    module = Mixed().eval()
    mlc.compile(module, **asked, to=to, out=tmp_path / "first")
    mlc.compile(module, **asked, plan=tmp_path / "first" / "plan.toml", out=tmp_path / "again")
    assert (tmp_path / "again" / "model.onnx").read_bytes() == (tmp_path / "first" / "model.onnx").read_bytes()


UNUSED = "not used for more than finding masks"
IDLE = "--pass {} came to nothing: no node is left for it"
ROWS = [{"input": row} for row in np.random.default_rng(1).standard_normal((40, 2, 32)).astype(np.float32)]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("asked", "note"),
    [
        ({"calibrate": ROWS}, ""),
        ({"calibrate": ROWS[:20], "data": ROWS[20:], "metric": "agreement"}, ""),
        ({"calibrate": ROWS, "passes": ["int8-static:method=mse"]}, IDLE.format("int8-static")),
        ({"calibrate": ROWS, "passes": ["fp16"]}, IDLE.format("fp16")),
        ({"calibrate": ROWS, "passes": ["equalize"], "keep_float": ["output"], "portable": True}, ""),
    ],
)
def test_a_plan_takes_what_the_run_that_wrote_it_took_also_where_that_came_to_nothing(tmp_path, asked, note):
    torch.manual_seed(0)
    module = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)).eval()
    asked = {"inputs": ["input=float32[batch=1..4,32]"]} | asked
    first = mlc.compile(module, **asked, to="int8", out=tmp_path / "first")
    again = mlc.compile(module, **asked, plan=tmp_path / "first" / "plan.toml", out=tmp_path / "again")
    assert again.plan == first.plan
    assert (tmp_path / "again" / "model.onnx").read_bytes() == (tmp_path / "first" / "model.onnx").read_bytes()
    for report in (first, again):
        assert not note or any(note in said for said in report.notes)
        assert not any(UNUSED in said for said in report.notes)


@pytest.mark.usefixtures("quick")
def test_data_of_which_nothing_is_read_is_a_note_also_with_the_plan(tmp_path):
    table = nn.Embedding(2000, 64)
    asked: dict[str, Any] = {"inputs": ["input=int64[batch=1..8] in 0..1999"]}
    asked["calibrate"] = [{"input": np.arange(4)}, {"input": np.arange(8)}]
    first = mlc.compile(table, **asked, to="int8", out=tmp_path / "first")
    again = mlc.compile(table, **asked, plan=tmp_path / "first" / "plan.toml", out=tmp_path / "again")
    for report in (first, again):
        assert any(UNUSED in said for said in report.notes)


def test_a_plan_of_floats_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="keeps every node float"):
        quantizing(merge(None, {"source": "m.onnx", "plan": str(plan_of(tmp_path, y="float"))}))


def test_a_recipe_holds_the_format_the_plan_and_what_stays_float(tmp_path):
    recipe = merge(None, {"source": "m.onnx", "to": "int8", "keep_float": ["a", "b*"]})
    (tmp_path / "recipe.toml").write_text(recipe_toml(recipe, tmp_path))
    again = read_recipe(tmp_path / "recipe.toml")
    assert (again.to, again.keep_float) == ("int8", ("a", "b*"))


@pytest.mark.parametrize("flags", [[], ["--to", "none"]])
def test_a_recipe_without_a_format_is_nothing_to_quantize_by(tmp_path, capsys, flags):
    asked = {"source": "m.onnx"} if not flags else {"source": "m.onnx", "to": "int8"}
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_toml(merge(None, asked), tmp_path))
    assert main(["quantize", "--recipe", str(path), *flags]) == 2
    assert "neither the recipe nor a flag gives a number format" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no number format is given"),
        (["--to", "int7"], "--to: there is no number format 'int7'"),
        (["--plan", "nowhere.toml"], "the plan nowhere.toml cannot be read"),
    ],
)
def test_a_wrong_format_is_one_sentence(capsys, flags, message):
    assert main(["quantize", "model.onnx", *flags]) == 2
    assert message in capsys.readouterr().err
