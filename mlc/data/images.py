"""Images into numbers: decoded, upright, resized, cropped and normalized as asked, in the input's own layout."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from mlc.data.checks import check_kinds
from mlc.data.extras import needed
from mlc.errors import DataError, UsageError, first_line, foreign
from mlc.grammar.images import LAYOUTS, STRETCH, Images
from mlc.grammar.inputs import input_text
from mlc.types import Dim, InputSpec

if TYPE_CHECKING:
    from PIL.Image import Image

    from mlc.types import Array

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""Names of files that are images."""

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""What is decoded, whatever the name says: other formats of Pillow run other programs."""

_MODES = {1: "L", 3: "RGB"}
"""Pillow's name for each number of channels."""

_FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True)
class ImageReader:
    """How images become one input: all settings resolved against its spec.

    ``shape`` is that of one sample. ``scale``, ``mean`` and ``std`` are not used for raw pixels, an input of uint8.
    """

    input: str
    dtype: str
    shape: tuple[int, ...]
    channels_last: bool
    resize: int | str | None
    scale: float
    mean: Array
    std: Array

    @property
    def channels(self) -> int:
        """1 for gray, 3 for red, green and blue."""
        return self.shape[-1 if self.channels_last else 0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.shape[:2] if self.channels_last else self.shape[1:]
        return height, width

    def read(self, file: Path | IO[bytes], what: str) -> Array:
        """Return one sample. Raises DataError with ``what``, the image's name, where it cannot be decoded as it is."""
        pixels: Array = np.asarray(self._resized(_decoded(file, what, _MODES[self.channels]), what))
        pixels = pixels.reshape(*self.size, self.channels)
        if self.dtype != "uint8":
            with np.errstate(over="ignore"):  # what becomes infinite is refused by its name
                pixels = ((pixels * self.scale - self.mean) / self.std).astype(self.dtype)
        return np.ascontiguousarray(pixels if self.channels_last else np.moveaxis(pixels, -1, 0))

    def _resized(self, image: Image, what: str) -> Image:
        """Return the middle of an image, resized by area-weighted bilinear interpolation."""
        from PIL.Image import MAX_IMAGE_PIXELS, Resampling

        height, width = self.size
        wide, high = self._full_size(*image.size)
        if wide * high > (MAX_IMAGE_PIXELS or np.inf):
            raise DataError(
                f"{what} is {image.height} x {image.width}, and would be resized to {high} x {wide}",
                "remove it, or give resize=stretch",
            )
        if (wide, high) != image.size:
            image = image.resize((wide, high), Resampling.BILINEAR)
        left, top = round((wide - width) / 2), round((high - height) / 2)
        return image.crop((left, top, left + width, top + height))

    def _full_size(self, wide: int, high: int) -> tuple[int, int]:
        """Return the width and height that an image gets before the middle is cropped."""
        height, width = self.size
        if self.resize == STRETCH:
            return width, height
        if isinstance(self.resize, int):
            height = width = self.resize
        if wide * height >= high * width:
            return wide * height // high, height
        return width, high * width // wide


def image_reader(source: str, spec: InputSpec, images: Images | None) -> ImageReader:
    """Return how images become an input; without settings, of its own size and scaled to 0..1.

    Raises DataError for an input that takes no images, UsageError for settings that it cannot have.
    """
    asked = images or Images()
    needed("PIL.Image", "images", "images")
    channels_last = _layout(spec, asked) == "NHWC"
    channels = spec.dims[3 if channels_last else 1].low
    size = _size(spec, spec.dims[1:3] if channels_last else spec.dims[2:4], asked)
    shape = (*size, channels) if channels_last else (channels, *size)
    check_kinds(source, {spec.name: ((1, *shape), np.dtype(spec.dtype))}, [spec])
    _check_numbers(spec, channels, asked)
    scale, mean, std = asked.scale or 1 / 255, np.array(asked.mean or (0.0,)), np.array(asked.std or (1.0,))
    return ImageReader(spec.name, spec.dtype, shape, channels_last, asked.resize, scale, mean, std)


def image_notes(source: str, reader: ImageReader, images: Images | None) -> tuple[str, ...]:
    """Return what was decided about numbers that nobody gave."""
    asked = images or Images()
    if reader.dtype == "uint8" or asked.scale or asked.mean or asked.std:
        return ()
    note = f"the images of {source} were scaled to 0..1 and not normalized"
    return (f"{note}; if the model was trained otherwise, give --images mean=...,std=...",)


def image_detail(reader: ImageReader) -> str:
    """Return what images were made into, for the report."""
    height, width = reader.size
    return f"{'gray' if reader.channels == 1 else 'RGB'} {height} x {width}"


def _layout(spec: InputSpec, asked: Images) -> str:
    axes = {"NCHW": 1, "NHWC": 3}
    text = input_text(spec)
    if spec.dtype not in ("uint8", *_FLOATS):
        raise DataError(
            f"the input {text} takes no images: they are uint8 or {', '.join(_FLOATS)}", "give an .npz, or a function"
        )
    fits = [
        layout
        for layout in LAYOUTS
        if len(spec.dims) == len(layout) and spec.dims[axes[layout]].fixed and spec.dims[axes[layout]].low in _MODES
    ]
    if asked.layout is not None and fits and asked.layout not in fits:
        raise UsageError(f"layout={asked.layout} was given, and the input {text} is {fits[0]}", "leave it out")
    if not fits:
        hint = "images need four axes, 1 or 3 channels at axis 1 or 3; give an .npz, or a function"
        raise DataError(f"the input {text} takes no images", hint)
    if len(fits) > 1 and asked.layout is None:
        raise UsageError(f"the input {text} may be NCHW or NHWC", "give one, as in --images layout=NCHW")
    return asked.layout or fits[0]


def _size(spec: InputSpec, dims: Sequence[Dim], asked: Images) -> tuple[int, int]:
    """Return height and width as asked, else those at which the input is fixed."""
    own = tuple(dim.low for dim in dims if dim.fixed)
    if asked.size is None and len(own) < len(dims):
        raise UsageError(
            f"no size of images was given, and the input {input_text(spec)} has none of its own",
            "give one, as in --images size=224",
        )
    height, width = asked.size or own
    if any(dim.fixed and dim.low != side for dim, side in zip(dims, (height, width), strict=True)):
        raise UsageError(
            f"images of {height} x {width} were asked for, and the input is {input_text(spec)}",
            "leave size out, or compile with ranges there",
        )
    if isinstance(asked.resize, int) and asked.resize < max(height, width):
        raise UsageError(
            f"resize={asked.resize} leaves less of an image than the {height} x {width} that are cropped from it",
            f"give {max(height, width)} or more, or resize={STRETCH}",
        )
    return height, width


def _check_numbers(spec: InputSpec, channels: int, asked: Images) -> None:
    given = [name for name in ("scale", "mean", "std") if getattr(asked, name)]
    if given and spec.dtype == "uint8":
        raise UsageError(
            f"{given[0]} was given, and the input {spec.name} takes raw pixels: it is uint8", "leave it out"
        )
    for name in given:
        if name != "scale" and len(getattr(asked, name)) > channels:
            raise UsageError(f"{name} has a value a color, and the input {spec.name} takes gray images", "give one")


def _decoded(file: Path | IO[bytes], what: str, mode: str) -> Image:
    """Return an image upright, in a mode of 8 bits a channel."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    bombs = (Image.DecompressionBombWarning, Image.DecompressionBombError)
    with foreign(what, DataError, "remove or repair it"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damage in what describes an image, not in its pixels
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(file, formats=FORMATS) as image:
                _refuse_others(image, what)
                return _flat(ImageOps.exif_transpose(image), what, mode)
        except UnidentifiedImageError as error:
            hint = f"remove or repair it; images are {', '.join(FORMATS)}"
            raise DataError(f"{what} is corrupt or no image", hint) from error
        except bombs as error:
            raise DataError(f"{what} is too large: {first_line(error)}", "make it smaller") from error
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{what} cannot be read: {first_line(error)}", "remove or repair it") from error


def _refuse_others(image: Any, what: str) -> None:
    """Refuse what is not one image of 8 bits a channel; the further ones of a camera's MPO file are views of the first.

    Pillow reads colors of 16 bits as 8, and says so only in how it would decode them.
    """
    deep = image.mode in {"I", "F"} or image.mode.startswith("I;")
    if deep or any(re.search(";16[BLN]", str(tile[-1])) for tile in image.tile):
        raise DataError(f"{what} has more than 8 bits a channel", "save it with 8, scaled as the model expects")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise DataError(f"{what} has {frames} frames", "save the one that is meant")


def _flat(image: Image, what: str, mode: str) -> Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise DataError(f"{what} is transparent", "save it on the background that the model expects")
        image = image.convert("RGB")
    return image.convert(mode)
