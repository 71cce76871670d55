"""Inverses, solutions and factors of small matrices, which ONNX has no operators for."""

import numpy as np
import pytest
import torch
from torch import nn

from mlc.errors import SourceError
from tests.exporting import assert_alike, exported
from tests.models_for_export import Of

pytestmark = pytest.mark.needs_onnxruntime

MATRICES = "x=float32[batch=1..4,3,3]"


def matrices():
    """Drawn ones, one that is solved by exchanging rows alone, and one of very different pivots."""
    drawn = np.random.default_rng(5).standard_normal((3, 3, 3)).astype(np.float32)
    exchanged = np.stack([np.eye(3)[[1, 2, 0]], np.diag([1e-2, 1e2, -1])]).astype(np.float32)
    return drawn, exchanged


def positive(x):
    return x @ x.mT + 0.5 * torch.eye(3)


def above(x):
    return x.triu() + 3 * torch.eye(3)


OPERATIONS = {
    "inv": torch.linalg.inv,
    "inverse": lambda x: x.inverse() @ x[:, :, :1],
    "solve": lambda x: torch.linalg.solve(x, x[:, :, :2] * 2 + 1),
    "solve, vectors": lambda x: torch.linalg.solve(x, x[:, :, 0] + 1),
    "solve, one of each": lambda x: torch.linalg.solve(x[0], torch.ones(3)),
    "solve, from the right": lambda x: torch.linalg.solve(x, x[:, :2] + 1, left=False),
    "cholesky": lambda x: torch.linalg.cholesky(positive(x)),
    "cholesky, upper": lambda x: torch.linalg.cholesky(positive(x), upper=True),
    "cholesky_solve": lambda x: torch.cholesky_solve(x[:, :, :1], torch.linalg.cholesky(positive(x))),
    "cholesky_solve, upper": lambda x: torch.cholesky_solve(x[:, :, :1], torch.linalg.cholesky(positive(x)).mT, True),
    "cholesky_inverse": lambda x: torch.cholesky_inverse(torch.linalg.cholesky(positive(x)[0])),
    "triangular": lambda x: torch.linalg.solve_triangular(above(x), x[:, :, :2], upper=True),
    "triangular, lower": lambda x: torch.linalg.solve_triangular(above(x).mT, torch.ones(3, 2), upper=False),
    "triangular, of ones": lambda x: torch.linalg.solve_triangular(above(x), x, upper=True, unitriangular=True),
    "triangular, right": lambda x: torch.linalg.solve_triangular(above(x), x[:, :2], upper=True, left=False),
    "slogdet": lambda x: torch.stack(torch.linalg.slogdet(x)),
    "slogdet of none": lambda x: torch.stack(torch.linalg.slogdet(torch.ones(3, 3) * x[:, :1, :1])),
    "density": lambda x: torch.distributions.MultivariateNormal(torch.zeros(3), positive(x)).log_prob(torch.ones(3)),
}


def test_small_matrices(workspace):
    every = Of(lambda x: {name: operation(x) for name, operation in OPERATIONS.items()})
    assert_alike(workspace, exported(workspace, every, None, MATRICES), *matrices(), rtol=2e-3, atol=1e-3)


class Kalman(nn.Module):
    """A filter over six observations: Kalman, A New Approach to Linear Filtering and Prediction Problems (1960)."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.eye(4) + 0.1 * torch.randn(4, 4))
        self.seen = nn.Parameter(torch.randn(2, 4))

    def forward(self, x):
        state, spread = torch.zeros(x.shape[0], 4), torch.eye(4).expand(x.shape[0], 4, 4)
        for time in range(x.shape[1]):
            state, spread = state @ self.step.T, self.step @ spread @ self.step.T + torch.eye(4)
            gain = spread @ self.seen.T @ torch.linalg.inv(self.seen @ spread @ self.seen.T + torch.eye(2))
            state += (gain @ (x[:, time] - state @ self.seen.T).unsqueeze(-1)).squeeze(-1)
            spread = (torch.eye(4) - gain @ self.seen) @ spread
        return state, spread


def test_a_kalman_filter(workspace):
    drawn = np.random.default_rng(6).standard_normal((3, 6, 2)).astype(np.float32)
    net = exported(workspace, Kalman(), None, "x=float32[batch=1..4,6,2]")
    assert_alike(workspace, net, drawn, drawn[:1], rtol=2e-3, atol=1e-3)


def test_a_large_matrix_is_refused_in_a_sentence(workspace):
    with pytest.raises(SourceError, match="has 40 rows in a matrix to be inverted or factorized, and at most 32 can"):
        exported(workspace, Of(torch.linalg.inv), None, "x=float32[40,40]")


def test_whether_a_factor_was_found_is_refused_in_a_sentence(workspace):
    def checked(x):
        factor, info = torch.linalg.cholesky_ex(positive(x))
        return torch.where((info == 0)[:, None, None], factor, x)

    with pytest.raises(SourceError, match="reads the info of linalg_cholesky_ex"):
        exported(workspace, Of(checked), None, MATRICES)


def test_a_pseudo_inverse_is_refused_with_a_rewrite(workspace):
    with pytest.raises(SourceError, match=r"aten\.linalg_pinv at .* has no counterpart") as caught:
        exported(workspace, Of(torch.linalg.pinv), None, "x=float32[batch=1..3,4,2]")
    assert "torch.linalg.solve" in caught.value.hint
