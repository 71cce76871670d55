"""A small residual network for 28x28 grey images: the sample model with ordinary convolutions."""

from torch import Tensor, nn, zeros

CHANNELS = (16, 32, 64)
CLASSES = 10


def convolution(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the size (divided by the stride), followed by batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
    )


class BasicBlock(nn.Module):
    """``relu(conv(relu(conv(x))) + shortcut(x))``; the shortcut is a 1x1 projection where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        same_shape = channels_in == channels_out and stride == 1
        self.first = convolution(channels_in, channels_out, 3, stride)
        self.second = convolution(channels_out, channels_out, 3)
        self.shortcut = nn.Identity() if same_shape else convolution(channels_in, channels_out, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """float32 [batch, channels_in, h, w] -> float32 [batch, channels_out, h / stride, w / stride]."""
        return self.relu(self.second(self.relu(self.first(x))) + self.shortcut(x))


class FashionCNN(nn.Module):
    """A stem, one basic block for each of 16, 32 and 64 channels, the mean over the image, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        narrow, middle, wide = CHANNELS
        self.stem = nn.Sequential(convolution(1, narrow, 3), nn.ReLU())
        self.blocks = nn.Sequential(
            BasicBlock(narrow, narrow, stride=1),
            BasicBlock(narrow, middle, stride=2),
            BasicBlock(middle, wide, stride=2),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(wide, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """float32 [batch, 1, 28, 28], normalised as train.py does -> logits, float32 [batch, 10]."""
        return self.head(self.pool(self.blocks(self.stem(image))).flatten(1))


def model() -> tuple[nn.Module, tuple[Tensor]]:
    """The network with fresh weights, in evaluation mode, and an example of its input: float32 [2, 1, 28, 28]."""
    return FashionCNN().eval(), (zeros(2, 1, 28, 28),)
