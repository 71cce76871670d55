"""A small MobileNet for 28x28 grey images: the sample model with depthwise convolutions."""

from torch import Tensor, nn, zeros

STEM = 16
BLOCKS = ((32, 2), (64, 1), (64, 2), (128, 1))
"""Channels and stride of each block."""

CLASSES = 10


def convolution(channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps the size (divided by the stride), batch normalisation, and ReLU up to six."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU6(),
    )


class DepthwiseCNN(nn.Module):
    """A stem, four depthwise separable blocks (Howard et al., MobileNets, 2017, section 3.1), the mean, a head."""

    def __init__(self) -> None:
        super().__init__()
        layers = [convolution(1, STEM, 3)]
        before = STEM
        for channels, stride in BLOCKS:
            layers += [convolution(before, before, 3, stride, groups=before), convolution(before, channels, 1)]
            before = channels
        self.blocks = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(before, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """float32 [batch, 1, 28, 28], normalised as fashion_cnn's train.py does -> logits, float32 [batch, 10]."""
        return self.head(self.pool(self.blocks(image)).flatten(1))


def model() -> tuple[nn.Module, tuple[Tensor]]:
    """The network with fresh weights, in evaluation mode, and an example of its input: float32 [2, 1, 28, 28]."""
    return DepthwiseCNN().eval(), (zeros(2, 1, 28, 28),)
