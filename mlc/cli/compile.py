"""``mlc compile`` and ``mlc quantize``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc.cli import options as o
from mlc.cli.output import listening, rendered, result
from mlc.errors import UsageError
from mlc.grammar.places import names_function, split_weights

if TYPE_CHECKING:
    from mlc.recipe import Recipe


def compile_(
    *,
    source: o.Source = None,
    inputs: o.Inputs = None,
    passes: o.Passes = None,
    keep_float: o.KeepFloat = None,
    plan: o.PlanFile = None,
    recipe: o.RecipeFile = None,
    target: o.TargetText = None,
    calibrate: o.Calibrate = None,
    statistics: o.StatisticsFile = None,
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
    strict: o.StrictOrNot = None,
    strict_provider: o.StrictProviderOrNot = None,
    portable: o.PortableOrNot = None,
    freeze: o.FreezeOrNot = None,
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
    to: o.To = None,
    source: o.Source = None,
    inputs: o.Inputs = None,
    passes: o.Passes = None,
    keep_float: o.KeepFloat = None,
    plan: o.PlanFile = None,
    recipe: o.RecipeFile = None,
    target: o.TargetText = None,
    calibrate: o.Calibrate = None,
    statistics: o.StatisticsFile = None,
    data: o.DataText = None,
    images: o.ImagesText = None,
    metric: o.MetricText = None,
    max_drop: o.MaxDrop = None,
    max_latency: o.MaxLatency = None,
    min_speedup: o.MinSpeedup = None,
    max_size: o.MaxSize = None,
    at: o.At = None,
    out: o.Out = None,
    explain: o.Explain = False,
    force: o.Force = False,
    strict: o.StrictOrNot = None,
    strict_provider: o.StrictProviderOrNot = None,
    portable: o.PortableOrNot = None,
    freeze: o.FreezeOrNot = None,
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
    if to is None and plan is None and recipe is None:
        raise UsageError("no number format is given", "give --to int8, another of its formats, or --plan FILE")
    return _run(dict(locals()), quantizes=True)


def _run(flags: dict[str, Any], *, quantizes: bool = False) -> int:
    """Run the whole line on what was asked, print the report and return the exit code."""
    as_json, force, out, trust, no_cache, quiet, verbose, _ = (
        flags.pop(key) for key in ("json", "force", "out", "trust", "no_cache", "quiet", "verbose", "debug")
    )
    explain = flags.pop("explain", False)
    if explain and (out is not None or force):
        raise UsageError("--explain writes nothing", f"leave out {'--force' if out is None else '--out'}")
    recipe = recipe_of(flags)
    if quantizes:
        _refuse_float(recipe)
    place = _place(out, recipe, explain=explain)
    from mlc.judging import exit_code
    from mlc.pipeline import compile as compile_recipe

    with listening(quiet=quiet, verbose=verbose) as progress:
        report = compile_recipe(
            recipe, place, force=force, trust=trust, cache=not no_cache, explain=explain, progress=progress
        )
    result(rendered(report, as_json=as_json, quiet=quiet))
    return exit_code(report, strict=recipe.strict)


def _refuse_float(recipe: Recipe) -> None:
    """Raise UsageError where neither flags nor a recipe say in what form anything is to be computed."""
    from mlc.registry import lossy_of

    if recipe.to is None and recipe.plan is None and not lossy_of(recipe.passes):
        raise UsageError("neither the recipe nor a flag gives a number format", "give --to int8, or --plan FILE")


def _place(out: str | None, recipe: Recipe, *, explain: bool) -> Path | None:
    """Return the directory to write, None where nothing is written."""
    if explain:
        return None
    return o.given("--out", _folder, out) if out is not None else default_out(recipe.source)


def recipe_of(flags: dict[str, Any]) -> Recipe:
    """Return what a recipe file, if there is one, and the flags over it ask for. Raises UsageError."""
    file, source = flags.pop("recipe"), flags["source"]
    if source is not None and source.endswith(".toml"):
        raise UsageError(f"{source} is a recipe, not a model", f"write --recipe {source}")
    if source is None and file is None:  # said before the grammar is loaded: start-up is a promise
        raise UsageError("no model is given", "name one: file.py:function, package.module:function or model.onnx")
    taken = o.taken_back(flags, file)
    changes = o.recipe_changes(flags)
    from mlc.recipe import changed, live, read_recipe, without

    recipe = changed(None if file is None else without(read_recipe(Path(file), source), taken), changes)
    for key in live(recipe):
        raise UsageError(
            f"{file}: {key} was a live Python object", f"give it anew: {'SOURCE' if key == 'source' else o.flag(key)}"
        )
    return recipe


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


def _folder(text: str) -> Path:
    from mlc.recipe.fields import place_of

    return Path(place_of(text))
