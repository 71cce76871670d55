# ruff: noqa: D100, D101, ANN001, ANN003, ANN201, ANN204, ARG001, ICN001
# What a newcomer writes: as short as the documentation allows.
import numpy
import torch
from model import model
from olive.data.registry import Registry
from safetensors.torch import load_file


def load(model_path):
    network, _ = model()
    network.load_state_dict(load_file(model_path))
    return network.eval()


class Images(torch.utils.data.Dataset):
    def __init__(self, path):
        data = numpy.load(path)
        self.images, self.labels = torch.from_numpy(data["image"]), torch.from_numpy(data["labels"])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index]}, self.labels[index]


@Registry.register_dataset()
def images(data_dir, **kwargs):
    return Images(data_dir)


@Registry.register_post_process()
def classes(output):
    return output.argmax(dim=-1)
