"""Errors, files, units, progress, seeds, interruption and registries, which every package may use."""
