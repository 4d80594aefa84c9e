"""Measurements: each script prints a table and takes `--json FILE` and `--quick`."""

from nas.common.fast_imports import import_frameworks

import_frameworks()  # every benchmark is a program of its own, and starts here
