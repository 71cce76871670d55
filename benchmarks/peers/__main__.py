"""Olive, optimum-onnx, onnxruntime.quantization and mlc at the sample's job, as a newcomer meets them."""

from benchmarks.common import run
from benchmarks.peers.measuring import measure
from benchmarks.peers.summary import summary

if __name__ == "__main__":
    run(measure, summary)
