"""Knowing memory before paying it: predicted peaks, measured peaks, and what the difference teaches."""

from nas.memory.correction import PeakCorrection
from nas.memory.measurement import (
    AllocatorWatch,
    MemoryWatch,
    keep_freed_memory,
    map_large_tensors,
    private_bytes,
    release_freed_memory,
)
from nas.memory.prediction import PROCESS_BYTES, MemoryModel, PeakPrediction, Rehearsed, bytes_with_holes
from nas.memory.tracker import PeakTracker

__all__ = [
    "PROCESS_BYTES",
    "AllocatorWatch",
    "MemoryModel",
    "MemoryWatch",
    "PeakCorrection",
    "PeakPrediction",
    "PeakTracker",
    "Rehearsed",
    "bytes_with_holes",
    "keep_freed_memory",
    "map_large_tensors",
    "private_bytes",
    "release_freed_memory",
]
