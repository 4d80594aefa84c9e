"""Fusion families, and the weight-sharing supernet."""

from nas.fusion.base import Features, FusionModel, features_of, sizes_of
from nas.fusion.families import FAMILIES
from nas.fusion.pmf import PMF, trainable_parameter_count
from nas.fusion.supernet import build_model, build_supernet, extract

__all__ = [
    "FAMILIES",
    "PMF",
    "Features",
    "FusionModel",
    "build_model",
    "build_supernet",
    "extract",
    "features_of",
    "sizes_of",
    "trainable_parameter_count",
]
