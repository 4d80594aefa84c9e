"""Readers for data sets, tokenising, image processing, and base features on disk."""

from nas.data.feature_cache import open_or_build
from nas.data.features import Batch, FeatureSplit, FeatureStore
from nas.data.images import ImageSource, open_images
from nas.data.preprocessing import Preprocessor
from nas.data.readability import find_unreadable
from nas.data.reading import open_images_of, read_data
from nas.data.samples import SPLITS, Dataset, Samples, summary

__all__ = [
    "SPLITS",
    "Batch",
    "Dataset",
    "FeatureSplit",
    "FeatureStore",
    "ImageSource",
    "Preprocessor",
    "Samples",
    "find_unreadable",
    "open_images",
    "open_images_of",
    "open_or_build",
    "read_data",
    "summary",
]
