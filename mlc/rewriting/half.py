"""What a pass put into float16 is judged as a GPU computes it: a CPU computes it in float32, and shows no loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlc.emulate import computes_half, first_loss, rounded_half
from mlc.errors import MlcError, PassError
from mlc.rewriting.ratios import ratios_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from mlc.graph_pass import Pass
    from mlc.rewriting.outputs import OutputJudge
    from mlc.rewriting.sessions import Feeds
    from mlc.workspace import Workspace

NARROW = "on GPUs that add up in float16 too"


def put_into_half(before: ir.Model, after: ir.Model) -> bool:
    """Whether a graph computes in float16 and the one that it was made from does not."""
    return computes_half(after) and not computes_half(before)


def refuse_loss(subject: Pass, model: ir.Model, feeds: Sequence[Feeds], workspace: Workspace, *, low: bool) -> None:
    """Raise PassError where float16 makes an infinity or NaN of a number, with the first node that does.

    Steps inside of operators count where an output is too ``low``: elsewhere what they lost did no harm.
    """
    lost = first_loss(model, feeds, workspace, steps=low)
    if lost:
        raise PassError(
            f"the pass {subject.name} overflows: with every value rounded to float16, as on a GPU, {lost}",
            "give calibration data that reaches such values, or keep the node float with --keep-float",
        )


def narrow_notes(
    subject: Pass, outputs: OutputJudge, before: ir.Model, after: ir.Model, feeds: Sequence[Feeds]
) -> tuple[str, ...]:
    """Warn of what is lost where sums are in float16 too: the first infinity or NaN, or outputs below the floor.

    Where that cannot be computed, the note says so.
    """
    try:
        ratios = ratios_of(outputs, before, rounded_half(after, narrow=True))
        low = {name: ratio for name, ratio in ratios.items() if ratio < subject.floor}
        lost = first_loss(after, feeds, outputs.runner.workspace, narrow=True, steps=bool(low))
    except MlcError as error:
        return (f"nothing tells what is lost {NARROW}: {error.message}",)
    if lost:
        return (f"{NARROW}, {lost}",)
    return tuple(f"{NARROW}, the output {name} is at {ratio:.1f} dB" for name, ratio in low.items())
