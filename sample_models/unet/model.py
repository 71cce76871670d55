"""A small U-Net that finds shapes in noisy images: the sample of a network that labels every pixel."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, cat, nn, zeros
from torch.nn.functional import max_pool2d

WIDTHS = (16, 32, 64)
CLASSES = ("background", "circle", "rectangle", "line")


def block(channels_in: int, channels_out: int) -> nn.Sequential:
    """Two 3x3 convolutions that keep the size, each with batch normalisation and ReLU."""
    layers: list[nn.Module] = []
    for before in (channels_in, channels_out):
        layers += [nn.Conv2d(before, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Two levels down and up again (Ronneberger et al., U-Net, 2015, figure 1), the size kept by padding."""

    def __init__(self) -> None:
        super().__init__()
        narrow, middle, wide = WIDTHS
        self.top_down, self.middle_down, self.bottom = block(1, narrow), block(narrow, middle), block(middle, wide)
        self.rise_to_middle, self.middle_up = nn.ConvTranspose2d(wide, middle, 2, stride=2), block(2 * middle, middle)
        self.rise_to_top, self.top_up = nn.ConvTranspose2d(middle, narrow, 2, stride=2), block(2 * narrow, narrow)
        self.head = nn.Conv2d(narrow, len(CLASSES), 1)

    def forward(self, image: Tensor) -> Tensor:
        """float32 [batch, 1, 48, 48] from 0 to 1 -> logits, float32 [batch, 4, 48, 48]."""
        top = self.top_down(image)
        middle = self.middle_down(max_pool2d(top, 2))
        bottom = self.bottom(max_pool2d(middle, 2))
        middle = self.middle_up(cat([self.rise_to_middle(bottom), middle], 1))
        return self.head(self.top_up(cat([self.rise_to_top(middle), top], 1)))


def model() -> tuple[nn.Module, tuple[Tensor]]:
    """The network with fresh weights, in evaluation mode, and an example of its input: float32 [2, 1, 48, 48]."""
    return UNet().eval(), (zeros(2, 1, 48, 48),)


def miou(outputs: Mapping[str, NDArray[np.float32]], answers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of an image, the mean over the classes that are in it or are found in it: [batch].

    ``answers`` are the classes of the pixels, integers [batch, 48, 48].
    """
    (logits,) = outputs.values()
    found = logits.argmax(axis=1)
    classes = np.arange(logits.shape[1])[:, np.newaxis, np.newaxis, np.newaxis]
    ours, theirs = found == classes, answers == classes
    both, either = (ours & theirs).sum(axis=(2, 3)), (ours | theirs).sum(axis=(2, 3))
    seen = either > 0
    shares: NDArray[np.float64] = (both / np.maximum(either, 1)).sum(axis=0) / seen.sum(axis=0)
    return shares
