# ruff: noqa: D100, D101, D102, ANN001, ANN201, ANN204, ICN001
# What a newcomer writes: as short as the documentation allows.
import sys

import numpy
import onnxruntime
import torch
from model import model
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from safetensors.torch import load_file

network, example = model()
network.load_state_dict(load_file("weights.safetensors"))
batch = torch.export.Dim("batch", min=1, max=64)
torch.onnx.export(
    network, example, "model.onnx", input_names=["image"], output_names=["logits"], dynamic_shapes=({0: batch},)
)


class Images(CalibrationDataReader):
    def __init__(self, path):
        self.samples = iter([{"image": image[None]} for image in numpy.load(path)["image"]])

    def get_next(self):
        return next(self.samples, None)


# The documentation's defaults: QDQ, signed activations and weights, one scale for each tensor.
quant_pre_process("model.onnx", "prepared.onnx")
quantize_static("prepared.onnx", "int8.onnx", Images("calibration.npz"))


def top1(path):
    data = numpy.load("evaluation.npz")
    session = onnxruntime.InferenceSession(path)
    logits = [session.run(None, {"image": part})[0] for part in numpy.array_split(data["image"], 40)]
    return (numpy.concatenate(logits).argmax(1) == data["labels"]).mean()


before, after = top1("model.onnx"), top1("int8.onnx")
print(f"top-1 {before:.4f} before, {after:.4f} after")
sys.exit(int(before - after > 0.01))
