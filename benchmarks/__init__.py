"""Benchmarks; each script prints a table and accepts `--json FILE` and `--quick`."""

from nas.common.fast_imports import import_frameworks

import_frameworks()  # each benchmark is a separate program, which imports this package first
