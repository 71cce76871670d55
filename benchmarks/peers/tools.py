"""The tools: how each is installed and called by its documentation, and how what it tells is recognized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common import ROOT

SCRIPTS = Path(__file__).parent / "scripts"

THERE = ("torch", "safetensors", "numpy")
"""What a person who has trained the sample has installed."""

QUIET = {
    "ORT_DISABLE_TELEMETRY": "1",
    "OLIVE_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
}
"""No tool reports to its makers while it is measured."""

FACTS = {
    "accuracy before and after": "the accuracy of the original and of the int8 model, on the evaluation images",
    "how sure the drop is": "an interval, or the number of samples that differ",
    "speed beside fp32": "how fast the original and the int8 model are",
    "how sure the speed is": "an interval or the noise",
    "what stays float and why": "the nodes that are not int8, with a reason",
    "error by layer": "where in the network the error arises",
    "other CPUs": "whether another CPU's 8-bit products may saturate",
}
"""What a person who ships a model wants to know."""


@dataclass(frozen=True)
class Typo:
    """A text of one of the user's files, the same with a word misspelt, and that word."""

    file: str
    right: str
    wrong: str
    word: str


@dataclass(frozen=True)
class Tool:
    """One tool: its files in scripts/``name``, its command in the job's folder, and where its int8 model is.

    ``requirements`` are what its documentation says to install, ``remedies`` what is installed after each failure, in
    order. ``reports`` names the files, below site-packages, whose code reports to its makers unless it is told not to.
    ``tells`` has, for each fact, what to look for in what it printed or wrote; facts that are not in it are not told.
    """

    name: str
    command: tuple[str, ...]
    artifact: str
    requirements: tuple[str, ...]
    remedies: tuple[tuple[str, ...], ...] = ()
    reports: tuple[str, ...] = ()
    tells: Mapping[str, str] = field(default_factory=dict)
    option: Typo | None = None
    node: Typo | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """What the user writes."""
        return tuple(sorted(path for path in (SCRIPTS / self.name).iterdir() if path.is_file()))


RUNTIME = "onnxruntime/capi/_pybind_state.py"
"""Where onnxruntime lies; from version 1.29 on it reports, and so do all who import it."""

OWN_SCRIPT = {"accuracy before and after": r"top-1 [\d.]+ before, [\d.]+ after"}
"""What the user's own lines tell, where the tool tells nothing."""

MLC = Tool(
    "mlc",
    ("sh", "run.sh"),
    "int8/model.onnx",
    (str(ROOT),),
    tells={
        "accuracy before and after": r"top1 \(higher is better; original",
        "how sure the drop is": r"drop, [\d,]+ samples",
        "speed beside fp32": r"speed-up",
        "how sure the speed is": r"noise, export beside itself",
        "what stays float and why": r"reason = ",
        "error by layer": r"Error by layer",
        "other CPUs": r"saturate",
    },
    option=Typo("run.sh", "--max-drop 0.01", "--pass int8-static:methd=percentile --max-drop 0.01", "methd"),
)

ONNXRUNTIME = Tool(
    "onnxruntime",
    ("python", "quantize.py"),
    "int8.onnx",
    ("onnxruntime", "onnx"),
    (("onnxscript",),),
    option=Typo(
        "quantize.py",
        'Images("calibration.npz"))',
        'Images("calibration.npz"), extra_options={"WeightSymetric": True})',
        "WeightSymetric",
    ),
    node=Typo(
        "quantize.py",
        'Images("calibration.npz"))',
        'Images("calibration.npz"), nodes_to_exclude=["node_conv"])',
        "node_conv",
    ),
    tells=OWN_SCRIPT,
)

OPTIMUM = Tool(
    "optimum",
    ("python", "quantize.py"),
    "int8/model_quantized.onnx",
    ("optimum-onnx[onnxruntime]",),
    (("datasets",), ("optimum-onnx[onnxruntime]", "datasets"), ("onnxscript",)),
    option=Typo("quantize.py", "per_channel=False)", "per_chanel=False)", "per_chanel"),
    node=Typo("quantize.py", "per_channel=False)", 'per_channel=False, nodes_to_exclude=["node_conv"])', "node_conv"),
    tells=OWN_SCRIPT,
)

OLIVE = Tool(
    "olive",
    ("olive", "run", "--config", "config.json"),
    "out/model.onnx",
    ("olive-ai[cpu]",),
    (("requests",), ("pydantic<2.13",)),
    reports=("olive/telemetry/telemetry.py",),
    tells={
        "accuracy before and after": r"accuracy-accuracy_score",
        "speed beside fp32": r"latency-avg",
    },
    option=Typo(
        "config.json",
        '"data_config": "calibration"}',
        '"data_config": "calibration", "per_chanel": true}',
        "per_chanel",
    ),
    node=Typo(
        "config.json",
        '"data_config": "calibration"}',
        '"data_config": "calibration", "nodes_to_exclude": ["node_conv"]}',
        "node_conv",
    ),
)

TOOLS = (MLC, ONNXRUNTIME, OPTIMUM, OLIVE)
