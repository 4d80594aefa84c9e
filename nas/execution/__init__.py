"""Run jobs, in this process or in Ray workers, under the memory budget of every device."""

import nas.common.fast_imports  # noqa: F401 - first: a worker's process begins here
