"""Recurrent layers on top of each other, each one way or both ways over the sequence, as torch.nn lays them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Layer: TypeAlias = Callable[[Tensor, list[Tensor], Sequence[Tensor]], tuple[list[Tensor], Tensor]]
"""From steps, [length, batch, features], states, [batch, width] each, and weights to the last states and answers."""


def through_layers(
    x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], ways: int, layer: Layer
) -> tuple[Tensor, list[Tensor]]:
    """Return the answers of the last layer, [length, batch, ways * width], and the last states as they are given.

    ``x`` is [length, batch, features]; each of ``states`` is [layers * ways, batch, width]; ``weights`` are those of
    the layers in turn, of each forwards and then backwards.
    """
    count = len(states[0])
    each = len(weights) // count
    steps, last = x, []
    for below in range(0, count, ways):
        sides = []
        for way in range(ways):
            place = below + way
            own = weights[place * each : (place + 1) * each]
            ends, answers = layer(steps.flip(0) if way else steps, [state[place] for state in states], own)
            sides.append(answers.flip(0) if way else answers)
            last.append(ends)
        steps = torch.cat(sides, -1) if ways > 1 else sides[0]
    return steps, [torch.stack(ends) for ends in zip(*last, strict=True)]
