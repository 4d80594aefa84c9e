"""What a node other than the driver's needs before workers can start there: features in its cache, files of the run."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.common.errors import DataError
from nas.common.files import replace_atomically
from nas.common.progress import LineReporter
from nas.data.features.store import FeatureStore
from nas.execution.worker import FROZEN, WorkerSetup
from nas.run.prepare import prepare


def settle(
    setup: WorkerSetup, *, run_id: str, cache_directory: Path, frozen: tuple[NDArray[np.uint8], NDArray[np.uint8]]
) -> WorkerSetup:
    """Build or find the features, write the frozen weights; returns the setup with this node's paths.

    Args:
        setup: With the driver's paths.
        run_id: Names the run in the cache.
        cache_directory: Of this node.
        frozen: Content of the files of frozen weights.

    Raises:
        NasError: If data or encoders cannot be read here, or are others than the driver's.
    """
    run_directory = staged_run(cache_directory, run_id)
    for name, content in zip(FROZEN, frozen, strict=True):
        receive(run_directory, name, content)
    return replace(setup, run_directory=run_directory, feature_directory=_features(setup, cache_directory))


def staged_run(cache_directory: Path, run_id: str) -> Path:
    """Where a node keeps what it was sent of a run."""
    return cache_directory / "runs" / run_id


def _features(setup: WorkerSetup, cache_directory: Path) -> Path:
    if setup.feature_directory.is_dir():  # on a path that the nodes share
        return FeatureStore(setup.feature_directory).directory
    # Its lines go to the log that Ray keeps of the process.
    prepared = prepare(
        setup.config, source=setup.config.name, cache_directory=cache_directory, reporter=LineReporter(sys.stdout)
    )
    directory = prepared.store.directory
    if directory.name != setup.feature_directory.name:
        raise DataError(
            f"{setup.config.data.location}: data or encoders are others here than where the search was started "
            f"(features {directory.name}, expected {setup.feature_directory.name})"
        )
    return directory.resolve()


def receive(directory: Path, name: str, content: NDArray[np.uint8]) -> None:
    """Write a file that was sent, unless it is there."""
    path = directory / name
    if path.exists() and np.array_equal(np.memmap(path, dtype=np.uint8, mode="r"), content):
        return
    directory.mkdir(parents=True, exist_ok=True)
    with replace_atomically(path) as temporary:
        content.tofile(temporary)
