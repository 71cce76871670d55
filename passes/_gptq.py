"""GPTQ: each rounding error is made good by the rows that are still to be rounded."""

from __future__ import annotations

import numpy as np

from mlc.formats import BlockCodes, BlockScheme

DAMPING = 0.01
"""Share of the mean second moment that is added to each, so that the matrix can be inverted."""

STRIP = 32
"""Rows whose errors are kept before the rows below are told, in one product of matrices."""


def gptq(weight: np.ndarray, factor: np.ndarray, scheme: BlockScheme) -> BlockCodes:
    """Quantize a weight for inputs whose moments have this ``inverse_factor``.

    E. Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022
    (arXiv:2210.17323), algorithm 1, rows in their own order. ``weight`` is float32 [rows, columns], ``factor`` float32
    [rows, rows]. The scales of a block are those of its rows as the errors above have left them.
    """
    left = weight.copy()
    codes = np.zeros(weight.shape, np.int32)
    scales, zero_points = scheme.parameters(weight)
    for start in range(0, len(left), STRIP):
        end = min(start + STRIP, len(left))
        errors = np.zeros((end - start, left.shape[1]), np.float32)
        for row in range(start, end):
            block = slice(row // scheme.block, row // scheme.block + 1)
            if row % scheme.block == 0:
                scales[block], zero_points[block] = scheme.parameters(left[row : row + scheme.block])
            one = slice(row, row + 1)
            codes[one] = scheme.round(left[one], scales[block], zero_points[block])
            wrong = left[one] - scales[block] * (codes[one] - zero_points[block]).astype(np.float32)
            errors[row - start] = wrong[0] / factor[row, row]
            left[row + 1 : end] -= factor[row, row + 1 : end, np.newaxis] * errors[row - start]
        left[end:] -= factor[start:end, end:].T @ errors
    return BlockCodes(scheme, codes, scales, zero_points)


def inverse_factor(moments: np.ndarray) -> np.ndarray:
    """Return the upper Cholesky factor of the inverse of the damped moments ``x.T @ x``, float32 [rows, rows].

    An input that is always 0 has no second moment: any number serves.
    """
    wide = np.asarray(moments, np.float64)
    diagonal = np.diagonal(wide)
    damped = wide + np.diag(np.where(diagonal > 0, DAMPING * diagonal.mean(), 1.0))
    return np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)
