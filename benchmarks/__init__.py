"""Measurements: each script prints a table and takes `--json FILE` and `--quick`."""
