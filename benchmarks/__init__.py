"""Measurements: each script prints a table and takes `--json FILE` and `--quick`."""

import nas.common.fast_imports  # noqa: F401 - first of what takes seconds to import
