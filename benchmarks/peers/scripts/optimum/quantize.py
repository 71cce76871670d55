# ruff: noqa: D100, ANN001, ANN201, ICN001
# What a newcomer writes: as short as the documentation allows.
import sys
from pathlib import Path

import numpy
import onnxruntime
import torch
from datasets import Dataset
from model import model
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoCalibrationConfig, AutoQuantizationConfig
from safetensors.torch import load_file

# Optimum's own export is for models of Hugging Face; this one is exported by torch.
network, example = model()
network.load_state_dict(load_file("weights.safetensors"))
batch = torch.export.Dim("batch", min=1, max=64)
Path("exported").mkdir(exist_ok=True)
torch.onnx.export(
    network,
    example,
    "exported/model.onnx",
    input_names=["image"],
    output_names=["logits"],
    dynamic_shapes=({0: batch},),
)

images = Dataset.from_dict({"image": numpy.load("calibration.npz")["image"]})
quantizer = ORTQuantizer.from_pretrained("exported")
config = AutoQuantizationConfig.avx512_vnni(is_static=True, per_channel=False)
calibration = AutoCalibrationConfig.minmax(images)
ranges = quantizer.fit(images, calibration, operators_to_quantize=config.operators_to_quantize)
quantizer.quantize(config, save_dir="int8", calibration_tensors_range=ranges)


def top1(path):
    data = numpy.load("evaluation.npz")
    session = onnxruntime.InferenceSession(path)
    logits = [session.run(None, {"image": part})[0] for part in numpy.array_split(data["image"], 40)]
    return (numpy.concatenate(logits).argmax(1) == data["labels"]).mean()


before, after = top1("exported/model.onnx"), top1("int8/model_quantized.onnx")
print(f"top-1 {before:.4f} before, {after:.4f} after")
sys.exit(int(before - after > 0.01))
