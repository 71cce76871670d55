"""HQQ: scales and zero points for which few weights are far off, found without data."""

from __future__ import annotations

import numpy as np

from mlc.formats import BlockCodes, BlockScheme

POWER = 0.7
PENALTY, GROWTH = 10.0, 1.01
STEPS = 20
"""The constants of the paper's implementation."""

NOTHING = 1e-6
"""A share of a code below which an error is none: its negative power would be infinite."""


def hqq(weight: np.ndarray, scheme: BlockScheme) -> BlockCodes:
    """Lower ``sum |w - w'|**p`` of every block by half-quadratic splitting, started from rounding to nearest.

    H. Badri, A. Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023, equations (3) to (6), with
    errors in units of the block's first scale. The paper moves a real zero point and keeps the scale; integer formats
    have no such zero point, so here both move to their least-squares optimum for the codes, the zero point rounded. A
    block keeps the best that it has seen. ``weight`` is float32 [rows, columns].
    """
    inside = scheme.by_block(np.ones_like(weight)) > 0
    first, starts = scheme.parameters(weight)
    groups = scheme.by_block(weight) / first[:, np.newaxis]
    scales = np.ones_like(first)[:, np.newaxis]
    zero_points = starts[:, np.newaxis].astype(np.float32)
    best_scales, best_zero_points = scales, zero_points
    lowest_error = np.full_like(scales, np.inf)
    penalty = PENALTY
    for _ in range(STEPS):
        codes = np.clip(np.rint(groups / scales) + zero_points, scheme.lowest, scheme.highest)
        residual = groups - scales * (codes - zero_points)
        size = np.abs(residual)
        slope = np.maximum(size, NOTHING) ** np.float32(POWER - 1)
        error = (size * slope).sum(axis=1, keepdims=True, where=inside)
        better = error < lowest_error
        if not better.any():
            break
        lowest_error = np.where(better, error, lowest_error)
        best_scales = np.where(better, scales, best_scales)
        best_zero_points = np.where(better, zero_points, best_zero_points)
        target = groups - np.sign(residual) * np.maximum(size - slope / np.float32(penalty), 0)
        if not scheme.symmetric:
            moved = (codes - target / scales).mean(axis=1, keepdims=True, where=inside)
            zero_points = np.clip(np.rint(moved), scheme.lowest, scheme.highest)
        scales = _fitted(codes - zero_points, target, scales, inside)
        penalty *= GROWTH
    found = np.maximum(best_scales[:, 0] * first, np.finfo(np.float32).tiny)
    integers = best_zero_points[:, 0].astype(np.int32)
    return BlockCodes(scheme, scheme.round(weight, found, integers), found, integers)


def _fitted(steps: np.ndarray, target: np.ndarray, scales: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the scale of each block that brings the codes nearest to the target; as it was where none does."""
    squares = (steps * steps).sum(axis=1, keepdims=True, where=inside)
    products = (steps * target).sum(axis=1, keepdims=True, where=inside)
    return np.where(products > 0, products / np.where(squares > 0, squares, 1), scales)
