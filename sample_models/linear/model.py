"""One linear layer with fixed weights, small enough to compute by hand: what oracle.py repeats in NumPy."""

import torch
from torch import Tensor, nn

# In 1/256: with inputs in 1/256 too (data.py), every float32 sum is exact, whatever its order. In the first row two
# large weights of one sign are neighbours; in the second the signs of all neighbours differ; the others lie between.
WEIGHT = (
    (83, 79, -41, 17, -9, 62),
    (-97, 54, 23, -71, 38, -12),
    (15, 101, -33, -58, 47, -6),
    (-68, -19, 90, 7, -52, -77),
)
BIAS = (37, -113, 6, -58)


class Linear(nn.Module):
    """``x @ weight.T + bias`` with a weight [4, 6]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor(WEIGHT) / 256)
            self.linear.bias.copy_(torch.tensor(BIAS) / 256)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [batch, 6] -> float32 [batch, 4]."""
        return self.linear(x)


def model() -> tuple[nn.Module, tuple[Tensor]]:
    """The layer and an example of its input: float32 [2, 6]."""
    return Linear().eval(), (torch.zeros(2, 6),)
