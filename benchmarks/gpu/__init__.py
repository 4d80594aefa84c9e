"""Measurements on a GPU, each a program of its own that `benchmarks/gpu.sh` runs within a limit of time."""
