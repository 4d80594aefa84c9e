"""Prepare a node other than the driver's for workers: features in its cache, files of the run."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.common.errors import DataError
from nas.common.files import default_cache_directory, replace_atomically
from nas.config.schema import Config
from nas.data.features.store import FeatureStore
from nas.execution.worker_setup import FROZEN_FILES, WorkerSetup

FeatureFinder = Callable[[Config, Path], Path]
"""Builds or finds the features of a configuration in a cache directory; returns the directory of the feature store.

Ray sends it to other nodes by reference, so it has to be a function at the top level of a module.
"""


def set_up_remote_node(
    setup: WorkerSetup,
    run_id: str,
    cache_directory: Path | None,
    find_features: FeatureFinder | None,
    image: NDArray[np.uint8],
    text: NDArray[np.uint8],
) -> WorkerSetup:
    """Prepare the node on which this runs, as a Ray task.

    The task has its own process, so that the memory of the complete encoders is released when it ends.
    """
    return set_up_node(
        setup,
        run_id=run_id,
        cache_directory=cache_directory or default_cache_directory(),
        find_features=find_features,
        frozen=(image, text),
    )


def set_up_node(
    setup: WorkerSetup,
    *,
    run_id: str,
    cache_directory: Path,
    find_features: FeatureFinder | None,
    frozen: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> WorkerSetup:
    """Find the features and write the frozen weights; returns the setup with this node's paths.

    Args:
        setup: The setup with the driver's paths.
        run_id: The name of the run in the cache.
        cache_directory: The cache of this node.
        find_features: Function that builds or finds the features; None if they are at the driver's path.
        frozen: The contents of the files of frozen weights.

    Raises:
        NasError: If data or encoders cannot be read here, or differ from the driver's.
    """
    run_directory = remote_run_directory(cache_directory, run_id)
    for name, content in zip(FROZEN_FILES, frozen, strict=True):
        receive_file(run_directory, name, content)
    feature_directory = _feature_directory(setup, cache_directory, find_features)
    return replace(setup, run_directory=run_directory, feature_directory=feature_directory)


def remote_run_directory(cache_directory: Path, run_id: str) -> Path:
    """Return the directory in which a node keeps the files that it receives for a run."""
    return cache_directory / "runs" / run_id


def _feature_directory(setup: WorkerSetup, cache_directory: Path, find_features: FeatureFinder | None) -> Path:
    if setup.feature_directory.is_dir() or find_features is None:  # on a path that the nodes share
        return FeatureStore(setup.feature_directory).directory
    directory = find_features(setup.config, cache_directory)
    if directory.name != setup.feature_directory.name:
        raise DataError(
            f"{setup.config.data.location}: data or encoders of this node differ from those of the driver; expected "
            f"features {setup.feature_directory.name}, got {directory.name}"
        )
    return directory.resolve()


def receive_file(directory: Path, name: str, content: NDArray[np.uint8]) -> None:
    """Write a file that the driver has sent, unless the same file exists."""
    path = directory / name
    if path.exists() and np.array_equal(np.memmap(path, dtype=np.uint8, mode="r"), content):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(path) as temporary:
        content.tofile(temporary)


def remove_run(directory: Path) -> None:
    """Remove what a run has written on a node."""
    shutil.rmtree(directory, ignore_errors=True)
