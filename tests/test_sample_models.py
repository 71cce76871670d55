"""The sample models: what is committed is what the code beside it says, and the linear oracle is right."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file

from mlc import api
from mlc.data import open_data
from mlc.measuring.accuracy import score
from mlc.metrics import load_metric
from mlc.recipe import read_recipe

SAMPLES = Path(__file__).resolve().parent.parent / "sample_models"
FASHION, LINEAR = SAMPLES / "fashion_cnn", SAMPLES / "linear"
DATA_SET = Path("/usr/share/datasets/fashion-mnist")

Float = npt.NDArray[np.float32]


def load_module(path: Path) -> ModuleType:
    """The file as a module that no other ``model.py`` can be mistaken for."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_arrays(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """All arrays of an .npz file."""
    with np.load(path) as arrays:
        return dict(arrays)


def image_bytes(path: Path) -> set[bytes]:
    """The distinct images of an .npz file."""
    return {image.tobytes() for image in load_arrays(path)["image"]}


def trained() -> torch.nn.Module:
    """The network with its committed weights."""
    network, _ = load_module(FASHION / "model.py").model()
    network.load_state_dict(load_file(FASHION / "weights.safetensors"), strict=True)
    assert isinstance(network, torch.nn.Module)
    return network


oracle = load_module(LINEAR / "oracle.py")


# fashion_cnn


def test_the_example_input_gives_logits() -> None:
    network, (example,) = load_module(FASHION / "model.py").model()
    assert (example.dtype, tuple(example.shape)) == (torch.float32, (2, 1, 28, 28))
    assert tuple(network(image=example).shape) == (2, 10)


def test_the_weights_load_strictly_and_are_finite() -> None:
    assert all(bool(tensor.isfinite().all()) for tensor in trained().state_dict().values())


@pytest.mark.parametrize(("name", "count"), [("calibration", 512), ("evaluation", 2000)])
def test_the_images_are_what_the_model_takes(name: str, count: int) -> None:
    arrays = load_arrays(FASHION / f"{name}.npz")
    assert {key: (array.dtype.name, array.shape) for key, array in arrays.items()} == {
        "image": ("float32", (count, 1, 28, 28)),
        "labels": ("int64", (count,)),
    }
    assert set(arrays["labels"].tolist()) == set(range(10))
    assert len(np.unique(arrays["image"])) <= 256


def test_no_image_is_used_twice() -> None:
    calibration, evaluation = (image_bytes(FASHION / f"{name}.npz") for name in ("calibration", "evaluation"))
    assert (len(calibration), len(evaluation)) == (512, 2000)
    assert not calibration & evaluation


def test_the_files_are_small() -> None:
    names = ("model.py", "weights.safetensors", "calibration.npz", "evaluation.npz")
    assert sum((FASHION / name).stat().st_size for name in names) < 4_000_000


def test_the_trained_network_is_accurate() -> None:
    arrays = load_arrays(FASHION / "evaluation.npz")
    with torch.inference_mode():
        logits = trained()(torch.from_numpy(arrays["image"]))
    assert (logits.argmax(1).numpy() == arrays["labels"]).mean() >= 0.88


@pytest.mark.needs_dataset
@pytest.mark.skipif(not DATA_SET.exists(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_the_full_test_set_holds_the_evaluation_images(tmp_path: Path) -> None:
    file = tmp_path / "full.npz"
    command = [sys.executable, "-m", "sample_models.fashion_cnn.train", "--full-test", str(file)]
    subprocess.run(command, cwd=SAMPLES.parent, check=True)
    full, evaluation = load_arrays(file), load_arrays(FASHION / "evaluation.npz")
    assert full["image"].shape == (10_000, 1, 28, 28)
    label_of = dict(zip((image.tobytes() for image in full["image"]), full["labels"].tolist(), strict=True))
    assert [label_of[image.tobytes()] for image in evaluation["image"]] == evaluation["labels"].tolist()


# depthwise_cnn, unet, char_gpt and lstm

STATED = re.compile(r"^\| fp32 \| ([\d.]+) \|$", re.MULTILINE)
"""The figure in a README, of all the evaluation data."""

FEW = 100
MARGINS = {"depthwise_cnn": 0.09, "unet": 0.05, "char_gpt": 0.6, "lstm": 0.09}
"""How far the figure of the first 100 samples may be from that of all: two to three standard errors."""


@pytest.mark.parametrize("name", MARGINS)
def test_a_trained_sample_is_as_accurate_as_it_says(name: str) -> None:
    recipe = read_recipe(SAMPLES / name / "recipe.toml")
    original = api.load(recipe.source, inputs=recipe.inputs)
    data = open_data(str(recipe.data), original.signature.inputs, original.signature.outputs)
    metric = load_metric(str(recipe.metric))
    scores = []
    for batch in data.subset(np.arange(len(data)) < FEW, "the first").batches():
        outputs = original.run(batch.inputs)
        scores.append(score(metric, outputs, batch, outputs)[0])
    found = float(metric.value(np.concatenate(scores).mean(keepdims=True))[0])
    stated = STATED.search((SAMPLES / name / "README.md").read_text(encoding="utf-8"))
    assert stated is not None
    assert abs(found - float(stated[1])) < MARGINS[name]


@pytest.mark.parametrize("name", MARGINS)
def test_a_trained_sample_is_small(name: str) -> None:
    assert sum(file.stat().st_size for file in (SAMPLES / name).iterdir() if file.is_file()) < 4_000_000


@pytest.mark.parametrize("name", ["unet", "char_gpt"])
def test_no_sample_of_a_trained_one_is_used_twice(name: str) -> None:
    kinds = [load_arrays(SAMPLES / name / f"{kind}.npz") for kind in ("calibration", "evaluation")]
    first, second = ({row.tobytes() for row in next(iter(arrays.values()))} for arrays in kinds)
    assert len(first) == len(next(iter(kinds[0].values())))
    assert not first & second


def test_a_step_of_the_language_model_is_the_whole_one() -> None:
    module = load_module(SAMPLES / "char_gpt" / "model.py")
    weights = load_file(SAMPLES / "char_gpt" / "weights.safetensors")
    whole, step = module.model()[0], module.step()[0]
    whole.load_state_dict(weights, strict=True)
    step.load_state_dict(weights, strict=True)
    tokens = torch.from_numpy(load_arrays(SAMPLES / "char_gpt" / "evaluation.npz")["tokens"][:3, :6])
    past = [torch.zeros(3, module.HEADS, 0, module.WIDTH // module.HEADS) for _ in range(2 * module.LAYERS)]
    with torch.inference_mode():
        expected = whole(tokens)
        for place in range(tokens.shape[1]):
            logits, *past = step(tokens[:, place : place + 1], past)
            torch.testing.assert_close(logits[:, 0], expected[:, place], rtol=1e-4, atol=1e-4)


def test_the_metrics_of_samples_are_what_they_say() -> None:
    miou = load_module(SAMPLES / "unet" / "model.py").miou
    answers = np.array([[[0, 0], [1, 1]], [[0, 0], [0, 0]]])
    found = np.array([[[0, 1], [1, 1]], [[0, 0], [0, 0]]])
    logits = np.eye(4, dtype=np.float32)[found].transpose(0, 3, 1, 2)
    np.testing.assert_allclose(miou({"logits": logits}, answers), [(1 / 2 + 2 / 3) / 2, 1])
    perplexity = load_module(SAMPLES / "char_gpt" / "model.py").perplexity
    even = {"logits": np.zeros((2, 5, 96), np.float32)}
    np.testing.assert_allclose(perplexity.finish(perplexity(even, np.zeros((2, 5), np.int64)).mean()), 96)
    assert not perplexity.higher_is_better


# linear, in float32


def test_the_linear_data_are_what_the_layer_takes() -> None:
    calibration, evaluation = load_arrays(LINEAR / "calibration.npz"), load_arrays(LINEAR / "evaluation.npz")
    assert {key: (array.dtype.name, array.shape) for key, array in calibration.items()} == {"x": ("float32", (32, 6))}
    assert {key: (array.dtype.name, array.shape) for key, array in evaluation.items()} == {
        "x": ("float32", (48, 6)),
        "targets": ("float32", (48, 4)),
    }
    rows = {row.tobytes() for row in calibration["x"]}
    assert not any(row.tobytes() in rows for row in evaluation["x"])


def test_the_oracle_answers_as_torch_does() -> None:
    layer, (example,) = load_module(LINEAR / "model.py").model()
    evaluation = load_arrays(LINEAR / "evaluation.npz")
    assert (example.dtype, tuple(example.shape)) == (torch.float32, (2, 6))
    with torch.inference_mode():
        answers = layer(x=torch.from_numpy(evaluation["x"])).numpy()
    # Weights and inputs are multiples of 1/256, so both sums are exact.
    np.testing.assert_array_equal(oracle.layer(evaluation["x"]), answers)
    np.testing.assert_array_equal(evaluation["targets"], answers)


# linear, in int8


@pytest.fixture
def calibration() -> Float:
    """The calibration inputs, float32 [32, 6]."""
    return load_arrays(LINEAR / "calibration.npz")["x"].astype(np.float32)


@pytest.fixture
def inputs() -> Float:
    """The evaluation inputs, float32 [48, 6]."""
    return load_arrays(LINEAR / "evaluation.npz")["x"].astype(np.float32)


def weight_scale(name: str) -> Float:
    """The scales of the sample's weight by the oracle's function of that name."""
    scales = getattr(oracle, name)(oracle.WEIGHT)
    assert isinstance(scales, np.ndarray)
    return scales


def error_bound(inputs: Float, x_scale: np.float32, scale: Float) -> npt.NDArray[np.float64]:
    """How far the int8 layer may be from float32 where no input is clipped: [batch, outputs].

    With codes within half a step of x, w and b: ``|x'w' + b' - xw - b| <= |x' - x| |w'| + |x| |w' - w| + |b' - b|``,
    and a millionth for the scales' own rounding.
    """
    weight = oracle.quantize_weight(oracle.WEIGHT, scale) * scale.astype(np.float64)[:, np.newaxis]
    from_x = x_scale / 2 * np.abs(weight).sum(axis=1)
    from_weight = np.abs(inputs).astype(np.float64).sum(axis=1)[:, np.newaxis] * scale / 2
    from_bias = x_scale * scale.astype(np.float64) / 2
    bound: npt.NDArray[np.float64] = from_x + from_weight + from_bias + 1e-6
    return bound


def test_the_activation_range_includes_zero() -> None:
    assert oracle.calibrate(np.array([2.0, 5.1], np.float32)) == (np.float32(5.1) / np.float32(255), 0)
    assert oracle.calibrate(np.array([-5.1, -2.0], np.float32)) == (np.float32(5.1) / np.float32(255), 255)


def test_codes_saturate_and_round_halves_to_even() -> None:
    quantization = oracle.Quantization(np.float32(0.5), 3)
    values = np.array([-200, -0.25, 0, 0.25, 0.75, 200], np.float32)
    assert oracle.quantize(values, quantization).tolist() == [0, 3, 3, 3, 5, 255]


@pytest.mark.parametrize("scales", ["full_scale", "safe_scale"])
def test_the_integer_layer_is_near_the_float_one(scales: str, calibration: Float, inputs: Float) -> None:
    x_quantization, scale = oracle.calibrate(calibration), weight_scale(scales)
    assert inputs.min() >= calibration.min()
    assert inputs.max() <= calibration.max()
    sums = oracle.int8_sums(inputs, x_quantization, scale)
    assert sums.dtype == np.int32
    answers, expected = oracle.dequantize(sums, x_quantization.scale, scale), oracle.layer(inputs)
    bound = error_bound(inputs, x_quantization.scale, scale)
    assert (np.abs(answers - expected) <= bound).all()

    output = oracle.calibrate(oracle.layer(calibration))
    codes = oracle.requantize(sums, x_quantization.scale, scale, output)
    real = (codes.astype(np.float64) - output.zero_point) * output.scale
    in_range = expected.clip(oracle.layer(calibration).min(), oracle.layer(calibration).max())
    assert codes.dtype == np.uint8
    assert (np.abs(real - in_range) <= bound + output.scale / 2).all()


@pytest.mark.parametrize("scales", ["full_scale", "safe_scale"])
def test_no_input_or_output_is_near_a_tie(scales: str, calibration: Float, inputs: Float) -> None:
    """Another order of multiplying the scales, or another precision, gives the same codes."""
    x_quantization, output = oracle.calibrate(calibration), oracle.calibrate(oracle.layer(calibration))
    scale = weight_scale(scales)
    multiplier = scale.astype(np.float64) * float(x_quantization.scale) / float(output.scale)
    for x in (calibration, inputs):
        sums = oracle.int8_sums(x, x_quantization, scale)
        for exact in (x / float(x_quantization.scale), sums * multiplier):
            assert np.abs(exact - np.floor(exact) - 0.5).min() > 1e-3


def extreme_pair_sums(codes: npt.NDArray[np.int8]) -> tuple[int, int]:
    """The smallest and largest sum of two neighbouring products with 0 or 255, by trying all four."""
    even = [*codes.tolist(), *[0] * (len(codes) % 2)]
    sums = [
        left * first + right * second
        for first, second in zip(even[::2], even[1::2], strict=True)
        for left in (0, 255)
        for right in (0, 255)
    ]
    return min(sums), max(sums)


@pytest.mark.parametrize(
    ("codes", "fit"),
    [
        ([64, 64], True),
        ([65, 64], False),
        ([-64, -64], True),
        ([-64, -65], False),
        ([127, -127], True),
        ([1, 127, 127, 1], True),
        ([1, 127, 127], True),
        ([1, 2, 127, 2], False),
    ],
)
def test_pairs_fit(codes: list[int], fit: bool) -> None:
    row = np.array(codes, dtype=np.int8)
    lowest, highest = extreme_pair_sums(row)
    assert oracle.pairs_fit(row) is fit is (lowest >= -32768 and highest <= 32767)


def test_only_the_safe_scale_is_safe() -> None:
    full, safe = weight_scale("full_scale"), weight_scale("safe_scale")
    fits = [[oracle.pairs_fit(row) for row in oracle.quantize_weight(oracle.WEIGHT, s)] for s in (full, safe)]
    assert fits == [[False, True, False, False], [True] * 4]
    assert (safe == full).tolist() == [False, True, False, False]


def by_bisection(row: Float) -> np.float32:
    """The smallest safe scale, found among all float32 numbers, whose order is that of their bits."""

    def fits(bits: int) -> bool:
        scale = np.array([bits], dtype=np.uint32).view(np.float32)
        return bool(oracle.pairs_fit(oracle.quantize_weight(row[np.newaxis], scale)[0]))

    low = int(oracle.full_scale(row[np.newaxis]).view(np.uint32)[0])
    high = int(oracle.full_scale(4 * row[np.newaxis]).view(np.uint32)[0])
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return np.float32(np.array([low], dtype=np.uint32).view(np.float32)[0])


@pytest.mark.parametrize("inputs_of_a_row", [1, 2, 5, 6, 9, 32])
def test_the_safe_scale_is_the_smallest(inputs_of_a_row: int) -> None:
    rows = np.random.default_rng(inputs_of_a_row).normal(size=(25, inputs_of_a_row)).astype(np.float32)
    for weight in (oracle.WEIGHT, rows):
        scales, full = oracle.safe_scale(weight), oracle.full_scale(weight)
        smaller = np.nextafter(scales, np.float32(0))
        codes, smaller_codes = oracle.quantize_weight(weight, scales), oracle.quantize_weight(weight, smaller)
        for row, scale in enumerate(scales):
            lowest, highest = extreme_pair_sums(codes[row])
            assert lowest >= -32768
            assert highest <= 32767
            assert smaller[row] < full[row] or not oracle.pairs_fit(smaller_codes[row])
            assert scale == by_bisection(weight[row])
