"""Which inputs a model of transformers takes, their axes and values, as its configuration says."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlc.dims import smallest, traced_sizes
from mlc.types import Dim, InputSpec, Sizes

BATCH, IMAGES, SEQUENCE, DECODER_SEQUENCE, SAMPLES = "batch", "images", "sequence", "decoder_sequence", "samples"

LARGEST_BATCH = 64
LONGEST = 2048
"""The longest sequence that is declared where nothing else is asked: models that take more are told in a note."""

UNSTATED = 512
"""The longest sequence of a model whose configuration names none."""

USUAL_LENGTH = 128
"""The length of a sequence that is traced and timed where nothing else is asked."""

FRAMES = (50, 500)
"""How many frames are made of the shortest and the longest sound that is declared: 1 s and 10 s of speech."""

USUAL_SIDE = 224
"""The side of an image of a model whose configuration names none."""

UNMASKED = "create_recurrent_attention_mask"
"""What code of transformers imports for masks of recurrent layers."""

PARTS = ("vision_config", "encoder", "backbone_config")
"""Where the configuration of a model of several parts keeps that of the part that looks at images."""


@dataclass(frozen=True)
class Expected:
    """An input: an axis is a size, or the name of what it counts."""

    name: str
    dtype: str
    axes: tuple[int | str, ...]
    values: tuple[int, int] | None = None


@dataclass
class Expectation:
    """The inputs that a model is given, the range of each kind of axis with its usual size, and notes by input."""

    inputs: list[Expected] = field(default_factory=list)
    ranges: dict[str, tuple[Dim, int]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def range(self, name: str, low: int, high: int, usual: int) -> str:
        """Declare what an axis counts and return its name."""
        self.ranges[name] = (Dim(low, high, name=name), min(high, usual))
        return name


def expectation(model: Any, processor: Mapping[str, Any]) -> Expectation:
    """Return what a model takes, as far as its configuration says."""
    found = Expectation()
    found.range(BATCH, 1, LARGEST_BATCH, 2)
    parameters = inspect.signature(model.forward).parameters
    kinds = getattr(model, "input_modalities", None) or ()
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    for name, (kind, make) in MAKERS.items():
        if name in parameters and (name == model.main_input_name or kind in kinds):
            make(found, model, processor, parameters)
    if model.config.is_encoder_decoder and "decoder_input_ids" in parameters:
        _decoder_text(found, model)
    return found


def specs(found: Expectation, given: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """Return the given specs, and one for each other input: axes that count the same have the same dim."""
    dims = {name: dim for name, (dim, _) in found.ranges.items()}
    dims |= {name: dim for spec in given for name, dim in _counted(found, spec)}
    named = {dim.name: dim for spec in given for dim in spec.dims if dim.name is not None}
    dims = {name: named.get(dim.name or "", dim) for name, dim in dims.items()}
    told = {spec.name for spec in given}
    own = tuple(_spec(each, dims) for each in found.inputs if each.name not in told)
    return (*given, *own)


def usual_sizes(found: Expectation, inputs: Sequence[InputSpec]) -> Sizes:
    """Return a size for each named dim: the usual one of what it counts or the next above, else the smallest."""
    sizes: dict[str, int] = {}
    for spec in inputs:
        for name, dim in _counted(found, spec):
            if dim.name is not None and not dim.terms:
                sizes.setdefault(dim.name, smallest(dim, above=found.ranges[name][1] - 1))
    return {**traced_sizes(inputs, {}), **sizes}


def _counted(found: Expectation, spec: InputSpec) -> Iterator[tuple[str, Dim]]:
    """Yield what each axis of a spec counts, with its dim."""
    for each in found.inputs:
        if each.name == spec.name and len(each.axes) == len(spec.dims):
            yield from ((axis, dim) for axis, dim in zip(each.axes, spec.dims, strict=True) if isinstance(axis, str))


def _spec(each: Expected, dims: Mapping[str, Dim]) -> InputSpec:
    axes = tuple(dims[axis] if isinstance(axis, str) else Dim(axis, axis) for axis in each.axes)
    return InputSpec(each.name, each.dtype, axes, each.values)


def _text(found: Expectation, model: Any, _processor: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    config = _text_config(model.config)
    if config is None:
        return
    positions = _positions(model, config)
    if positions > LONGEST:
        more = f"the sequence goes up to {LONGEST} of the model's {positions} positions; --input may state more"
        found.notes["input_ids"] = more
    least = 2 if _leaves_one_token_unmasked(model) else 1
    if least > 1:
        alone = "the sequence begins at 2: of a single token the model leaves the mask out, and computes otherwise"
        found.notes["input_ids"] = "; ".join(filter(None, (found.notes.get("input_ids"), alone)))
    sequence = found.range(SEQUENCE, least, min(positions, LONGEST), USUAL_LENGTH)
    found.inputs.append(Expected("input_ids", "int64", (BATCH, sequence), (0, config.vocab_size - 1)))
    if "attention_mask" in parameters:
        found.inputs.append(Expected("attention_mask", "int64", (BATCH, sequence), (0, 1)))
    kinds = getattr(config, "type_vocab_size", None) or 0
    if "token_type_ids" in parameters and kinds > 1:
        found.inputs.append(Expected("token_type_ids", "int64", (BATCH, sequence), (0, kinds - 1)))


def _leaves_one_token_unmasked(model: Any) -> bool:
    """Whether a part is written with the masks of recurrent layers, of which transformers makes none for one token."""
    return any(hasattr(sys.modules.get(type(part).__module__), UNMASKED) for part in model.modules())


def _text_config(config: Any) -> Any | None:
    """Return the configuration of the main text, the encoder's where there are two; None where none has words."""
    ways = (
        lambda: config.get_text_config(encoder=config.is_encoder_decoder or None),
        lambda: getattr(config, "encoder", None),
        config.get_text_config,
    )
    return next((found for found in (way() for way in ways) if getattr(found, "vocab_size", None)), None)


def _decoder_text(found: Expectation, model: Any) -> None:
    config = model.config.get_text_config(decoder=True)
    positions = getattr(config, "max_target_positions", None) or getattr(config, "max_position_embeddings", None)
    sequence = found.range(DECODER_SEQUENCE, 1, min(positions or UNSTATED, LONGEST), USUAL_LENGTH)
    found.inputs.append(Expected("decoder_input_ids", "int64", (BATCH, sequence), (0, config.vocab_size - 1)))


def _positions(model: Any, config: Any) -> int:
    """Return how long a sequence may be; a table of positions that has a padding row begins to count behind it."""
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return UNSTATED
    for name, part in model.named_modules():
        row = getattr(part, "padding_idx", None)
        if name.endswith("position_embeddings") and row is not None and len(part.weight) == positions:
            return positions - int(row) - 1
    return positions


def _image(found: Expectation, model: Any, processor: Mapping[str, Any], _parameters: Mapping[str, Any]) -> None:
    parts = [model.config, *(getattr(model.config, key, None) for key in PARTS)]
    side = next((size for part in parts if (size := getattr(part, "image_size", None))), None)
    side = side or processor.get("crop_size") or processor.get("size")
    if not side:
        taken = f"{USUAL_SIDE} by {USUAL_SIDE} was taken; --input may state another"
        found.notes["pixel_values"] = f"the configuration names no size of images: {taken}"
    channels = next((number for part in parts if (number := getattr(part, "num_channels", None))), 3)
    frames = getattr(model.config, "num_frames", None)
    many = found.range(IMAGES, 1, LARGEST_BATCH, 2) if found.inputs else BATCH  # each text is compared with each image
    axes = (many, *((frames,) if frames else ()), channels, *_height_and_width(side or USUAL_SIDE))
    found.inputs.append(Expected("pixel_values", "float32", axes))


def _height_and_width(side: Any) -> tuple[int, int]:
    """Return the size of an image from a number, a pair, or what a processor says."""
    if isinstance(side, Mapping):
        whole = side.get("shortest_edge", USUAL_SIDE)
        return int(side.get("height", whole)), int(side.get("width", whole))
    if isinstance(side, Sequence):
        return int(side[0]), int(side[-1])
    return int(side), int(side)


def _sound(found: Expectation, model: Any, _processor: Mapping[str, Any], _parameters: Mapping[str, Any]) -> None:
    config = model.config
    if hasattr(config, "conv_kernel") and hasattr(config, "conv_stride"):
        low, high = (_samples(config, frames) for frames in FRAMES)
        found.inputs.append(Expected("input_values", "float32", (BATCH, found.range(SAMPLES, low, high, low))))
    elif hasattr(config, "num_mel_bins") and hasattr(config, "max_length"):
        found.inputs.append(Expected("input_values", "float32", (BATCH, config.max_length, config.num_mel_bins)))


def _samples(config: Any, frames: int) -> int:
    """Return the fewest samples of which the convolutions make that many frames."""
    samples = frames
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return int(samples)


def _features(found: Expectation, model: Any, _processor: Mapping[str, Any], _parameters: Mapping[str, Any]) -> None:
    config = model.config
    if hasattr(config, "num_mel_bins") and hasattr(config, "max_source_positions"):  # two frames make one position
        axes = (BATCH, config.num_mel_bins, 2 * config.max_source_positions)
        found.inputs.append(Expected("input_features", "float32", axes))


MAKERS = {
    "input_ids": ("text", _text),
    "pixel_values": ("image", _image),
    "input_values": ("audio", _sound),
    "input_features": ("audio", _features),
}
"""What describes an input, and the kind of data with which it comes in beside the main one."""
