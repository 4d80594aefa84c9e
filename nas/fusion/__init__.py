"""Fusion models and the weight-sharing supernet."""

from nas.fusion.pmf import PMF, Features, base_features, first_fusing_layers, trainable_parameter_count
from nas.fusion.supernet import build_model, build_supernet, extract

__all__ = [
    "PMF",
    "Features",
    "base_features",
    "build_model",
    "build_supernet",
    "extract",
    "first_fusing_layers",
    "trainable_parameter_count",
]
