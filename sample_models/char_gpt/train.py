"""Train the transformer on Python's own documentation and write weights, calibration and evaluation data here.

    python -m sample_models.char_gpt.train [--steps N] [--seed S]

Run it in the root of the repository. The text is what `help()` shows of Python's language reference, which every Python
brings along; another version's is a little different, and so would be the weights.
"""

import argparse
import math
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sample_models.char_gpt.model import CHARACTERS, LONGEST, CharGPT, perplexity
from sample_models.fashion_cnn.train import deterministic, write_weights

HERE = Path(__file__).resolve().parent
BATCH = 16
HELD_OUT = 0.1
CALIBRATION_SAMPLES, EVALUATION_SAMPLES = 32, 200

Tokens = NDArray[np.int64]


def text() -> str:
    """The topics, each paragraph once: many are parts of each other, and the held-out text has to be new."""
    paragraphs = dict.fromkeys("\n\n".join(topics[name] for name in sorted(topics)).split("\n\n"))
    return "\n\n".join(paragraphs)


def encoded(characters: str) -> Tokens:
    """Tokens of the characters; those that the network does not know are left out."""
    known = {character: token for token, character in enumerate(CHARACTERS)}
    return np.array([known[character] for character in characters if character in known], np.int64)


def pieces(tokens: Tokens, count: int, seed: int) -> tuple[Tokens, Tokens]:
    """``count`` places, chosen at random, that do not overlap: tokens and those that follow them, [count, 128]."""
    places = np.random.default_rng(seed).choice((len(tokens) - 1) // LONGEST, count, replace=False)
    rows = np.sort(places)[:, np.newaxis] * LONGEST + np.arange(LONGEST)
    return tokens[rows], tokens[rows + 1]


def train(network: nn.Module, tokens: Tensor, steps: int, generator: torch.Generator) -> None:
    """AdamW with one cycle of the learning rate over pieces from anywhere in the text."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps, pct_start=0.1)
    loss_of = nn.CrossEntropyLoss()
    network.train()
    for number in range(steps):
        starts = torch.randint(len(tokens) - LONGEST, (BATCH, 1), generator=generator)
        rows = starts + torch.arange(LONGEST)
        optimizer.zero_grad()
        loss = loss_of(network(tokens[rows]).flatten(0, 1), tokens[rows + 1].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (number + 1) % 100 == 0:
            print(f"step {number + 1}/{steps}: loss {loss.item():.4f}", flush=True)


@torch.inference_mode()
def measured(network: nn.Module, tokens: Tokens, targets: Tokens) -> float:
    """The perplexity by character."""
    network.eval()
    return math.exp(perplexity({"logits": network(torch.from_numpy(tokens)).numpy()}, targets).mean())


def main() -> None:
    """Train on the first nine tenths of the text, measure on the last, and write the three files."""
    parser = argparse.ArgumentParser(description="Train the sample transformer on Python's documentation.")
    parser.add_argument("--steps", type=int, default=600, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    arguments = parser.parse_args()
    tokens = encoded(text())
    end = int(len(tokens) * (1 - HELD_OUT))
    evaluation = pieces(tokens[end:], EVALUATION_SAMPLES, arguments.seed)
    generator = deterministic(arguments.seed)
    network = CharGPT()
    for embedding in (network.tokens, network.places):
        nn.init.normal_(embedding.weight, std=0.05, generator=generator)
    train(network, torch.from_numpy(tokens[:end]), arguments.steps, generator)
    print(f"perplexity on {evaluation[0].size} of {len(tokens)} characters {measured(network, *evaluation):.4f}")
    write_weights(network, HERE / "weights.safetensors")
    calibration, _ = pieces(tokens[:end], CALIBRATION_SAMPLES, arguments.seed)
    np.savez_compressed(HERE / "calibration.npz", tokens=calibration)
    np.savez_compressed(HERE / "evaluation.npz", tokens=evaluation[0], targets=evaluation[1])


if __name__ == "__main__":
    main()
