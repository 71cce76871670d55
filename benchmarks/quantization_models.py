"""The trained models whose quantization is measured: the samples of this repository, each by its recipe, and MiniLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlc import api
from mlc.artifact import Artifact
from mlc.data import Data, open_data
from mlc.metrics import Metric, load_metric
from mlc.recipe import Recipe, merge, read_recipe
from mlc.sources.original import Original

if TYPE_CHECKING:
    from torch import nn

    from mlc.types import Arrays

SAMPLES: Mapping[str, Mapping[str, int]] = {
    "fashion_cnn": {"batch": 2},
    "depthwise_cnn": {"batch": 2},
    "unet": {"batch": 1},
    "lstm": {"batch": 1},
    "char_gpt": {"batch": 1, "length": 128},
}
"""Folders of sample_models, and the sizes at which each is timed."""

MINILM, MINILM_AT = "minilm", {"batch": 1, "length": 64}
ANSWERS = ("labels", "targets")
STEP, WIDE_STEP = "char_gpt, one token", "char_gpt of 303 MB, one token"
WIDE = (1024, 16, 6)
"""Width, heads and layers of a network whose float32 weights take 303 MB."""


@dataclass(frozen=True)
class Subject:
    """A model with its recipe, the original, its unmodified export, and the sizes at which it is timed."""

    name: str
    recipe: Recipe
    original: Original
    exported: Artifact
    at: Mapping[str, int]

    @property
    def metric(self) -> Metric:
        """What it is judged by."""
        assert self.recipe.metric is not None
        return load_metric(self.recipe.metric)

    def calibration(self) -> Arrays:
        """Return the inputs to calibrate on, by name."""
        with np.load(str(self.recipe.calibrate)) as file:
            return {name: file[name] for name in file.files if name not in ANSWERS}

    def evaluation(self, count: int | None) -> Data:
        """Return the samples to be judged by; the first ``count`` of them."""
        signature = self.original.signature
        data = open_data(str(self.recipe.data), signature.inputs, signature.outputs)
        return data if count is None else data.subset(np.arange(len(data)) < count, f"the first {count}")

    def timed_inputs(self) -> Arrays:
        """Return the inputs of a timed run: the first samples of those to be judged by."""
        return next(self.evaluation(None).batches(self.at["batch"])).inputs


@dataclass(frozen=True)
class Step:
    """One step of a language model, and inputs for it: a token after 127 others."""

    name: str
    original: Original
    arrays: Arrays


def sample(name: str) -> Subject:
    """Load and export a sample of this repository; the working directory is its root."""
    return _subject(name, read_recipe(Path("sample_models", name, "recipe.toml")), SAMPLES[name])


def minilm(folder: Path) -> Subject:
    """Load and export MiniLM, and write the sentences for it into a folder. Raises MlcError where it is not there."""
    from benchmarks.quantization_minilm import INPUTS, SOURCE, write_sentences

    calibrate, data = write_sentences(folder)
    recipe = merge(None, {"source": SOURCE, "inputs": list(INPUTS), "calibrate": str(calibrate), "data": str(data),
                          "metric": "cosine"})  # fmt: skip
    return _subject(MINILM, recipe, MINILM_AT)


def _subject(name: str, recipe: Recipe, at: Mapping[str, int]) -> Subject:
    original = api.load(recipe.source, inputs=recipe.inputs)
    return Subject(name, recipe, original, api.export(original, data=recipe.calibrate), at)


def step() -> Step:
    """Load one step of the language model."""
    from sample_models.char_gpt.model import HEADS, LAYERS, WIDTH

    folder = "sample_models/char_gpt"
    return _step(STEP, f"{folder}/model.py:step@{folder}/weights.safetensors", (WIDTH, HEADS, LAYERS))


def wide_step() -> Step:
    """Make one step of the same network with weights of 303 MB, untrained, whose time is that of reading weights."""
    import torch

    from sample_models.char_gpt.model import NextToken

    width, heads, layers = WIDE
    past = [torch.zeros(2, heads, 15, width // heads) for _ in range(2 * layers)]
    torch.manual_seed(0)
    example = (torch.zeros(2, 1, dtype=torch.int64), past)
    return _step(WIDE_STEP, NextToken(*WIDE).eval(), WIDE, example)


def _step(
    name: str, source: str | nn.Module, sizes: tuple[int, int, int], example: tuple[Any, ...] | None = None
) -> Step:
    from sample_models.char_gpt.model import LONGEST

    width, heads, layers = sizes
    names = [f"past.{number}" for number in range(2 * layers)]
    size = width // heads
    past = [f"{name}=float32[batch=1..8,{heads},past=1..{LONGEST - 1},{size}]" for name in names]
    original = api.load(source, inputs=["token=int64[batch=1..8,1] in 0..95", *past], example=example)
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {"token": np.zeros((1, 1), np.int64)}
    arrays |= {name: rng.normal(size=(1, heads, LONGEST - 1, size)).astype(np.float32) for name in names}
    return Step(name, original, arrays)
