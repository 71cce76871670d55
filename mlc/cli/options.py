"""The options that several commands share: name, form and help of each. All are text, which mlc's own grammar reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar

import typer

from mlc.errors import UsageError
from mlc.grammar.formats import FORMATS

Value = TypeVar("Value")

NONE = "none"
"""In the place of the value of an option: what a recipe says there does not hold."""

SOURCE_FORMS = (
    "file.py:function or package.module:function, with @weights; model.onnx or model.keras; a directory of mlc's or "
    "Hugging Face's; with --trust model.pt2 or model.pt."
)


def option(name: str, form: str, text: str, *short: str, known: Callable[[], Iterable[str]] | None = None) -> Any:
    """Return an option that takes a value written in that form; what it defaults to stands in its help.

    ``known`` gives the values that a shell may complete.
    """
    complete = None if known is None else completing(known)
    return typer.Option(*short, name, metavar=form, help=text, show_default=False, autocompletion=complete)


def switch(name: str, text: str) -> Any:
    """Return a flag that a recipe may hold, and that can be taken back: ``--strict`` and ``--no-strict``."""
    return typer.Option(f"--{name}/--no-{name}", help=text, show_default=False)


def completing(known: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return what typer asks for the values that begin with what is typed."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in known() if value.startswith(incomplete)]

    return complete


def pass_names() -> list[str]:
    """Return the names of all passes that are installed."""
    from mlc.registry import available

    return list(available())


def _metric_names() -> list[str]:
    from mlc.metrics import BUILT_IN

    return list(BUILT_IN)


def _providers() -> list[str]:
    from mlc.runtimes.providers import available

    return list(available())


Source = Annotated[str | None, typer.Argument(metavar="SOURCE", help=SOURCE_FORMS, show_default=False)]
Inputs = Annotated[
    list[str] | None,
    option(
        "--input",
        "SPEC",
        """An input, as in image=float32[batch=1..64,3,224,224], or '"my ids"=int64[8] in 0..99'; repeatable.""",
    ),
]
Passes = Annotated[
    list[str] | None,
    option(
        "--pass", "P", "A pass beside the defaults: name:option=value; none: no defaults; repeatable.", known=pass_names
    ),
]
To = Annotated[
    str | None,
    option(
        "--to", "FORMAT", "int8, int8-static, int8-dynamic, int8-weights, int4-weights, fp16 or bf16.",
        known=lambda: FORMATS,
    ),
]  # fmt: skip
KeepFloat = Annotated[
    list[str] | None,
    option("--keep-float", "NAME", "A node, or a pattern of names, that no pass quantizes; repeatable."),
]
PlanFile = Annotated[str | None, option("--plan", "FILE", "A plan.toml that gives every node its format.")]
RecipeFile = Annotated[
    str | None,
    option("--recipe", "FILE", "A recipe.toml, which other options override; the value none takes one back."),
]
TargetText = Annotated[
    str | None,
    option("--target", "T", "Where it will run: provider[:device][,threads=N][,option=value] (cpu).", known=_providers),
]
Calibrate = Annotated[
    str | None, option("--calibrate", "D", "Calibration data: data.npz or .npy, a folder, or file.py:function.")
]
StatisticsFile = Annotated[
    str | None,
    option(
        "--statistics", "FILE", "The statistics of an earlier run, or its OUT; --calibrate is to add what they lack."
    ),
]
DataText = Annotated[
    str | None,
    option("--data", "D", "Evaluation data: data.npz or .npy, a folder of them or of images, or file.py:function."),
]
ImagesText = Annotated[
    str | None,
    option("--images", "SETTINGS", "How images become the input, as in size=224,resize=256,mean=0.5,std=0.5."),
]
MetricText = Annotated[
    str | None,
    option("--metric", "M", "top1, top5, mse, cosine, sqnr, agreement or file.py:function.", known=_metric_names),
]
MaxDrop = Annotated[
    str | None, option("--max-drop", "X", "The largest loss: 0.01 in the metric's units, 1% of the original's value.")
]
MaxLatency = Annotated[str | None, option("--max-latency", "MS", "The largest latency in milliseconds.")]
MinSpeedup = Annotated[str | None, option("--min-speedup", "X", "The smallest speedup over the unmodified export.")]
MaxSize = Annotated[str | None, option("--max-size", "MB", "The largest size in MB of 10**6 bytes.")]
At = Annotated[str | None, option("--at", "DIMS", "The sizes to measure at, as in batch=8,seq=128.")]
Out = Annotated[str | None, option("--out", "OUT", "The directory to write (<model>.mlc).", "-o")]
Explain = Annotated[
    bool, typer.Option("--explain", help="Say where the quantized model loses; measure no speed and write nothing.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace an OUT that exists.")]
_STRICT = "Fail where a site is left out, or the result inconclusive."
_STRICT_PROVIDER = "Refuse a model of which nodes fall back from the target's provider."
Strict = Annotated[bool, typer.Option("--strict", help=_STRICT)]
StrictProvider = Annotated[bool, typer.Option("--strict-provider", help=_STRICT_PROVIDER)]
StrictOrNot = Annotated[bool | None, switch("strict", _STRICT)]
StrictProviderOrNot = Annotated[bool | None, switch("strict-provider", _STRICT_PROVIDER)]
PortableOrNot = Annotated[bool | None, switch("portable", "Write standard ONNX operators only, for any runtime.")]
FreezeOrNot = Annotated[
    bool | None, switch("freeze", "Make constants of what a caller of an .onnx file could override.")
]
Task = Annotated[str | None, option("--task", "TASK", "What a Hugging Face model is for (from its architecture).")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Export anew, and keep no export for later runs.")]
Trust = Annotated[bool, typer.Option("--trust", help="Run the code that a model file or directory holds.")]
Seed = Annotated[str | None, option("--seed", "N", "The seed of everything random (0).")]
Opset = Annotated[str | None, option("--opset", "N", "The ONNX opset (20, or 23 for passes that need it).")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; of a report only its first line.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="A line for each step, with the seconds since the start.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def flag(key: str) -> str:
    """Return how a field of a recipe is written on the command line."""
    names = {"inputs": "--input", "passes": "--pass"}
    return names.get(key, "--" + key.replace("_", "-"))


def given(name: str, read: Callable[[str], Value], text: str) -> Value:
    """Read the text of an option; an error names the option."""
    from mlc.grammar import within

    with within(name):
        return read(text)


def taken_back(flags: dict[str, Any], recipe: str | None) -> tuple[str, ...]:
    """Return the fields of a recipe file that flags take back, and take these out of the flags.

    Raises UsageError without a recipe: then ``none`` is a file of that name, or a slip. A pass of that name has a
    meaning of its own.
    """
    keys = tuple(key for key, value in flags.items() if value in (NONE, [NONE]) and key not in {"source", "passes"})
    for key in keys:
        if recipe is None:
            hint = "leave it out, or write ./none for a file of that name"
            raise UsageError(f"{flag(key)} none takes back what a recipe says, and no --recipe is given", hint)
        flags[key] = None
    return keys


def recipe_changes(flags: dict[str, Any], source: str = "SOURCE") -> dict[str, Any]:
    """Return the fields of a recipe that flags give, by the name of the field; errors name ``source`` as that."""
    from mlc.grammar.values import parse_number, parse_whole
    from mlc.recipe.fields import read_fields

    readers: dict[str, Callable[[str], Any]] = {
        "max_latency": parse_number, "min_speedup": parse_number, "max_size": parse_number,
        "opset": parse_whole, "seed": parse_whole,
    }  # fmt: skip
    values: dict[str, Any] = {}
    for key, value in flags.items():
        if value is None or value == ():
            values[key] = None
        elif key in readers:
            values[key] = given(flag(key), readers[key], value)
        else:
            values[key] = list(value) if isinstance(value, (list, tuple)) else value
    return read_fields(values, lambda key: source if key == "source" else flag(key))
