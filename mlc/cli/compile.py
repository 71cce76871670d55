"""``mlc compile`` and ``mlc quantize``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mlc.cli import options as o
from mlc.cli.output import listening, rendered, result
from mlc.errors import UsageError
from mlc.grammar import nearest
from mlc.grammar.places import names_function, split_weights

if TYPE_CHECKING:
    from mlc.recipe import Recipe

FORMATS = {"int8": "int8-static"}
"""The pass that makes each number format."""

To = Annotated[str, o.option("--to", "FORMAT", "The number format: int8.", known=lambda: FORMATS)]


def compile_(
    *,
    source: o.Source = None,
    inputs: o.Inputs = None,
    passes: o.Passes = None,
    recipe: o.RecipeFile = None,
    target: o.TargetText = None,
    calibrate: o.Calibrate = None,
    data: o.DataText = None,
    images: o.ImagesText = None,
    metric: o.MetricText = None,
    max_drop: o.MaxDrop = None,
    max_latency: o.MaxLatency = None,
    min_speedup: o.MinSpeedup = None,
    max_size: o.MaxSize = None,
    at: o.At = None,
    out: o.Out = None,
    force: o.Force = False,
    strict: o.Strict = False,
    strict_provider: o.StrictProvider = False,
    portable: o.Portable = False,
    task: o.Task = None,
    trust: o.Trust = False,
    no_cache: o.NoCache = False,
    seed: o.Seed = None,
    opset: o.Opset = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> int:
    """Export, rewrite, verify, measure and report a model."""
    return _run(dict(locals()))


def quantize(
    *,
    to: To,
    source: o.Source = None,
    inputs: o.Inputs = None,
    passes: o.Passes = None,
    recipe: o.RecipeFile = None,
    target: o.TargetText = None,
    calibrate: o.Calibrate = None,
    data: o.DataText = None,
    images: o.ImagesText = None,
    metric: o.MetricText = None,
    max_drop: o.MaxDrop = None,
    max_latency: o.MaxLatency = None,
    min_speedup: o.MinSpeedup = None,
    max_size: o.MaxSize = None,
    at: o.At = None,
    out: o.Out = None,
    force: o.Force = False,
    strict: o.Strict = False,
    strict_provider: o.StrictProvider = False,
    portable: o.Portable = False,
    task: o.Task = None,
    trust: o.Trust = False,
    no_cache: o.NoCache = False,
    seed: o.Seed = None,
    opset: o.Opset = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> int:
    """Compile a model to another number format."""
    return _run(dict(locals()))


def _run(flags: dict[str, Any]) -> int:
    """Run the whole line on what was asked, print the report and return the exit code."""
    as_json, force, out, trust, no_cache, quiet, verbose, _ = (
        flags.pop(key) for key in ("json", "force", "out", "trust", "no_cache", "quiet", "verbose", "debug")
    )
    recipe = recipe_of(flags)
    place = o.given("--out", _folder, out) if out is not None else default_out(recipe.source)
    from mlc.judging import exit_code
    from mlc.pipeline import compile as compile_recipe

    with listening(quiet=quiet, verbose=verbose) as progress:
        report = compile_recipe(recipe, place, force=force, trust=trust, cache=not no_cache, progress=progress)
    result(rendered(report, as_json=as_json, quiet=quiet))
    return exit_code(report, strict=recipe.strict)


def recipe_of(flags: dict[str, Any]) -> Recipe:
    """Return what a recipe file, if there is one, and the flags over it ask for. Raises UsageError."""
    to, file = flags.pop("to", None), flags.pop("recipe")
    source = flags["source"]
    if to is not None and to not in FORMATS:
        raise UsageError(f"--to: there is no number format {to!r}", nearest(to, FORMATS))
    if source is not None and source.endswith(".toml"):
        raise UsageError(f"{source} is a recipe, not a model", f"write --recipe {source}")
    if source is None and file is None:  # said before the grammar is loaded: start-up is a promise
        raise UsageError("no model is given", "name one: file.py:function, package.module:function or model.onnx")
    changes = o.recipe_changes(flags)
    from mlc.recipe import changed, live, read_recipe

    recipe = changed(None if file is None else read_recipe(Path(file), source), changes)
    for key in live(recipe):
        raise UsageError(
            f"{file}: {key} was a live Python object", f"give it anew: {'SOURCE' if key == 'source' else o.flag(key)}"
        )
    return recipe if to is None else _with_pass(recipe, FORMATS[to])


def default_out(source: str) -> Path:
    """Return ``<model>.mlc`` in the working directory: named as the function, the directory, or the file unended.

    A directory that has this name itself is not replaced by what is made of it.
    """
    model, _ = split_weights(source)
    if names_function(model):
        return Path(f"{model.rpartition(':')[2]}.mlc")
    if not os.path.isdir(model):  # noqa: PTH112 - Path raises for names that are too long
        return Path(f"{Path(model).stem}.mlc")
    folder = Path(model).resolve()
    place = Path(f"{folder.name.removesuffix('.mlc')}.mlc")
    return Path(f"{place.stem}-again.mlc") if place.resolve() == folder else place


def _with_pass(recipe: Recipe, name: str) -> Recipe:
    from dataclasses import replace

    from mlc.types import PassSpec

    asked = name in [spec.name for spec in recipe.passes]
    return recipe if asked else replace(recipe, passes=(*recipe.passes, PassSpec(name)))


def _folder(text: str) -> Path:
    from mlc.recipe.fields import place_of

    return Path(place_of(text))
