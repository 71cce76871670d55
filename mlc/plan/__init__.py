"""What is quantized how: the format of every node of a graph, with the reason; planned, or read from a file."""

from mlc.plan.files import PlanFile, plan_toml, read_plan
from mlc.plan.formats import ORDER, formats_for, passes_for, reserve_for
from mlc.plan.kept import kept_sites
from mlc.plan.planner import EACH, UNNAMED, Planner, as_done, plan_for

__all__ = [
    "EACH",
    "ORDER",
    "UNNAMED",
    "PlanFile",
    "Planner",
    "as_done",
    "formats_for",
    "kept_sites",
    "passes_for",
    "plan_for",
    "plan_toml",
    "read_plan",
    "reserve_for",
]
