"""What is quantized how: the format of every node of a graph, with the reason; planned, or read from a file."""

from mlc.plan.files import naming_options, plan_toml, read_plan
from mlc.plan.formats import ORDER, formats_for, on_openvino, passes_for, reserve_for
from mlc.plan.kept import kept_sites
from mlc.plan.planner import ASKED_FLOAT, EACH, UNNAMED, Planner, as_done, plan_for

__all__ = [
    "ASKED_FLOAT",
    "EACH",
    "ORDER",
    "UNNAMED",
    "Planner",
    "as_done",
    "formats_for",
    "kept_sites",
    "naming_options",
    "on_openvino",
    "passes_for",
    "plan_for",
    "plan_toml",
    "read_plan",
    "reserve_for",
]
