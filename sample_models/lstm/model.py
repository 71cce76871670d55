"""Two layers of LSTM that read a 28x28 grey image row by row: the sample of a recurrent model."""

from torch import Tensor, nn, zeros

ROWS, COLUMNS = 28, 28
WIDTH, LAYERS = 128, 2
CLASSES = 10


class RowLSTM(nn.Module):
    """The rows of an image one after another through the layers; the last row's state through a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(COLUMNS, WIDTH, LAYERS, batch_first=True)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """float32 [batch, 1, 28, 28], normalised as fashion_cnn's train.py does -> logits, float32 [batch, 10]."""
        states, _ = self.lstm(image.squeeze(1))
        return self.head(states[:, -1])


def model() -> tuple[nn.Module, tuple[Tensor]]:
    """The network with fresh weights, in evaluation mode, and an example of its input: float32 [2, 1, 28, 28]."""
    return RowLSTM().eval(), (zeros(2, 1, ROWS, COLUMNS),)
