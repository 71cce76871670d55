"""What is asked, as plain data, and its three forms: flags, TOML and Python."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlc.dims import legal, named, range_text
from mlc.errors import UsageError, first_line
from mlc.grammar import nearest
from mlc.grammar.images import SETTINGS, Images, images_table
from mlc.grammar.inputs import input_text, parse_inputs
from mlc.grammar.values import (
    drop_text,
    parse_drop,
    parse_pass,
    parse_sizes,
    parse_target,
    pass_text,
    sizes_text,
    target_text,
)
from mlc.recipe.fields import FIELDS, LIMITS, NO_DEFAULTS, read_fields
from mlc.recipe.files import FILES, LIVE, from_folder, to_folder
from mlc.types import InputSpec, Limits, PassSpec, Target

__all__ = [
    "LIMITS", "LIVE", "NO_DEFAULTS", "Recipe", "asked_as", "changed", "check_sizes", "drop_text", "input_text", "live",
    "merge", "parse_drop", "parse_inputs", "parse_pass", "parse_sizes", "parse_target", "pass_text", "read_recipe",
    "recipe_toml", "sizes_text", "target_text", "without",
]  # fmt: skip

_TABLE = "limits"
_IMAGES = "images"
_HEAD = "# mlc compile --recipe {name} runs this again.\n"
_HEAD_LIVE = "# Live Python objects stood in the place of {fields}: this recipe cannot be run again as it is.\n"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the model that is written, and the checks that it has to stand.

    ``source``, ``calibrate``, ``data`` and ``metric`` are written as on the command line, paths relative to the working
    directory; a live Python object has ``python:<digest>`` in its place and cannot be replayed. ``opset`` is None until
    the source has decided it: an .onnx file has its own. ``strict_provider`` refuses nodes that fall back from the
    target's provider, ``portable`` operators of a single runtime. ``freeze`` makes constants of the weights of an .onnx
    file that a caller could override. ``task`` is what a Hugging Face model is for.
    ``images`` is how image files become the input. ``to`` is a number format, made of several passes by what pays,
    ``keep_float`` names nodes that no pass quantizes, ``plan`` a file that gives every node its format. ``statistics``
    is a file of an earlier run, or the directory that holds it, in the place of calibration data.
    """

    source: str
    inputs: tuple[InputSpec, ...] = ()
    passes: tuple[PassSpec, ...] = ()
    defaults: bool = True
    to: str | None = None
    keep_float: tuple[str, ...] = ()
    plan: str | None = None
    target: Target = field(default_factory=Target)
    calibrate: str | None = None
    statistics: str | None = None
    data: str | None = None
    images: Images | None = None
    metric: str | None = None
    limits: Limits = field(default_factory=Limits)
    at: Mapping[str, int] = field(default_factory=dict)
    opset: int | None = None
    seed: int = 0
    strict: bool = False
    strict_provider: bool = False
    portable: bool = False
    freeze: bool = False
    task: str | None = None


def merge(recipe: Recipe | None, given: Mapping[str, Any], name: Callable[[str], str] = str) -> Recipe:
    """Return the recipe with what is given in its place: flags, keyword arguments or the keys of a TOML file.

    See ``read_fields`` for what may be given and for ``name``. Raises UsageError as it does, and without a source.
    """
    return changed(recipe, read_fields(given, name))


def changed(recipe: Recipe | None, changes: Mapping[str, Any]) -> Recipe:
    """Return the recipe with the fields that ``read_fields`` has read in their place."""
    if recipe is None:
        if "source" not in changes:
            raise UsageError("no model is given", "name one: file.py:function, package.module:function or model.onnx")
        recipe = Recipe(changes["source"])
    limits = dataclasses.replace(recipe.limits, **changes["limits"])
    return dataclasses.replace(recipe, **{**changes, "limits": limits})


def without(recipe: Recipe, keys: Collection[str]) -> Recipe:
    """Return the recipe as if it had not given some of its fields and limits."""
    plain, limits = Recipe(recipe.source), {key: None for key in keys if key in LIMITS}
    fields = {key: getattr(plain, key) for key in keys if key not in LIMITS}
    return dataclasses.replace(recipe, **fields, limits=dataclasses.replace(recipe.limits, **limits))


def asked_as(recipe: Recipe, name: str) -> str:
    """Return by what a recipe asks for a pass: its own name, the number format that it is a part of, or the plan."""
    if any(spec.name == name for spec in recipe.passes):
        return name
    if recipe.plan is not None:
        return f"--plan {recipe.plan}"
    return name if recipe.to is None else f"--to {recipe.to}"


def check_sizes(sizes: Mapping[str, int], inputs: Sequence[InputSpec]) -> None:
    """Refuse sizes of dims that the inputs do not have, or that their ranges do not hold. Raises UsageError."""
    dims = named(inputs)
    for dim_name, size in sizes.items():
        if dim_name not in dims:
            hint = nearest(dim_name, dims) if dims else "every dim of the inputs is fixed"
            raise UsageError(f"no input has a dim {dim_name!r} that could be {size}", hint)
        if not legal(dims[dim_name], size):
            raise UsageError(
                f"{dim_name}={size} is outside {dim_name}={range_text(dims[dim_name])}", "change the size or the range"
            )


def live(recipe: Recipe) -> tuple[str, ...]:
    """Return the fields that were live Python objects, which a recipe cannot bring back."""
    fields = ("source", "calibrate", "data", "metric")
    return tuple(key for key in fields if (getattr(recipe, key) or "").startswith(LIVE))


def read_recipe(path: Path, source: str | None = None) -> Recipe:
    """Read a recipe file; paths in it are relative to its folder and come back relative to the working directory.

    ``source`` takes the place of the file's, which may then have none. Raises UsageError: no such file, no TOML,
    unknown keys (with the nearest match), wrong types and texts.
    """
    given = _load(path)
    _check_keys(path, given)
    limits = given.pop(_TABLE, {})
    for key, move in FILES.items():
        if isinstance(given.get(key), str):
            given[key] = move(given[key], lambda part: from_folder(part, path.parent))
    if source is not None:
        given["source"] = source
    if "source" not in given:
        raise UsageError(f"{path}: no source is given", 'name the model: source = "model.py:function"')
    return merge(None, {**given, **limits}, lambda key: f"{path}: {key}")


def _check_keys(path: Path, given: Mapping[str, Any]) -> None:
    """Refuse keys that there are not, in the file and in its tables; each knows where a key of another belongs."""
    tables = {_TABLE: LIMITS, _IMAGES: SETTINGS}
    for key in given:
        if key not in FIELDS and key != _TABLE:
            below = next((name for name, known in tables.items() if key in known), None)
            hint = f"it belongs below [{below}]" if below else nearest(key, [*FIELDS, _TABLE])
            raise UsageError(f"{path}: there is no key {key!r}", hint)
    for name, known in tables.items():
        table = given.get(name, {})
        if not isinstance(table, dict):
            raise UsageError(f"{path}: {name} is not a table", f"write [{name}] and one key a line")
        for key in table:
            if key not in known:
                hint = f"it belongs above [{name}]" if key in FIELDS else nearest(key, known)
                raise UsageError(f"{path}: there is no key {key!r} in [{name}]", hint)


def recipe_toml(recipe: Recipe, beside: Path) -> str:
    """Return the text of a recipe file in the folder ``beside``, from which ``read_recipe`` gives the recipe back."""
    import tomli_w

    values: dict[str, Any] = {
        "source": recipe.source,
        "inputs": [input_text(spec) for spec in recipe.inputs] or None,
        "passes": [*([] if recipe.defaults else [NO_DEFAULTS]), *(pass_text(spec) for spec in recipe.passes)],
        "to": recipe.to,
        "keep_float": list(recipe.keep_float) or None,
        "plan": recipe.plan,
        "target": target_text(recipe.target),
        "calibrate": recipe.calibrate,
        "statistics": recipe.statistics,
        "data": recipe.data,
        "metric": recipe.metric,
        "at": sizes_text(dict(recipe.at)) or None,
        "opset": recipe.opset,
        "seed": recipe.seed,
        "strict": recipe.strict,
        "strict_provider": recipe.strict_provider or None,
        "portable": recipe.portable or None,
        "freeze": recipe.freeze or None,
        "task": recipe.task,
    }
    for key, move in FILES.items():
        if values[key] is not None:
            values[key] = move(values[key], lambda part: to_folder(part, beside))
    drop = recipe.limits.max_drop
    limits = {
        "max_drop": None if drop is None else drop_text(drop) if drop.relative else drop.value,
        "max_latency": recipe.limits.max_latency,
        "min_speedup": recipe.limits.min_speedup,
        "max_size": recipe.limits.max_size,
    }
    tables = {_TABLE: _present(limits), _IMAGES: images_table(recipe.images or Images())}
    values = _present(values) | {name: table for name, table in tables.items() if table}
    head = _HEAD_LIVE.format(fields=", ".join(live(recipe))) if live(recipe) else _HEAD.format(name="recipe.toml")
    return head + tomli_w.dumps(values)


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _toml_hint(path: Path, error: BaseException) -> str:
    """Return the line of a recipe at which its TOML ends to be any, where that is known."""
    found = re.search(r"at line (\d+)", str(error))
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    if found is None or int(found[1]) > len(lines):
        return "write one `key = value` a line, texts in quotes; each run writes such a file beside its model"
    return f"correct line {found[1]}: {lines[int(found[1]) - 1].strip()}"


def _load(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # editors on Windows put a mark first
    except FileNotFoundError as error:
        raise UsageError(f"there is no recipe {path}", "name a recipe.toml") from error
    except IsADirectoryError as error:
        inside = path / "recipe.toml"
        hint = f"did you mean {inside}?" if inside.is_file() else "name a recipe.toml"
        raise UsageError(f"the recipe {path} is a directory", hint) from error
    except OSError as error:
        raise UsageError(f"the recipe {path} cannot be read: {error.strerror}", "name a recipe.toml") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the recipe {path} is not UTF-8 text", "name a recipe.toml") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the recipe {path} is not TOML: {first_line(error)}", _toml_hint(path, error)) from error
