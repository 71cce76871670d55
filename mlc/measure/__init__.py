"""How good and how fast: accuracy per sample, latency over a set of sessions in fresh processes."""

from mlc.measure.accuracy import measure_accuracy, measure_agreement
from mlc.measure.latency import bench, measure_latency, measure_load, measure_profile, time_original
from mlc.measure.nouns import Accuracy, Candidate, Latency, OutputAgreement, Trial
from mlc.measure.trials import measure

__all__ = [
    "Accuracy",
    "Candidate",
    "Latency",
    "OutputAgreement",
    "Trial",
    "bench",
    "measure",
    "measure_accuracy",
    "measure_agreement",
    "measure_latency",
    "measure_load",
    "measure_profile",
    "time_original",
]
