"""How good and how fast: accuracy per sample, latency over a set of sessions in fresh processes."""

from mlc.measuring.accuracy import measure_accuracy, measure_agreement
from mlc.measuring.latency import bench, measure_load, measure_profile, time_original
from mlc.measuring.nouns import Accuracy, Candidate, Latency, OutputAgreement, Trial
from mlc.measuring.trials import measure

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
    "measure_load",
    "measure_profile",
    "time_original",
]
