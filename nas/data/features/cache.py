"""Open a feature store from the cache, or build it: one process at a time, damaged stores rebuilt.

The folder of a store is named by the hash of everything that determines its numbers: contents, never places. It is
built under another name and renamed when complete, under a file lock that the operating system releases when its holder
dies.
"""

import errno
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from nas.common.errors import DataError
from nas.common.files import sync_directory
from nas.common.units import format_bytes
from nas.config.data_schema import FeaturesConfig
from nas.data.augmentation import PARAMETERS
from nas.data.features.build import FeatureBuild, OnProgress, delete_progress
from nas.data.features.encode import NotFiniteError
from nas.data.features.files import FORMAT, find_damage, seal_store
from nas.data.features.helpers import BuildHelpers, HelpedProgress, HelpOrder
from nas.data.features.inputs import FeatureSources
from nas.data.features.plan import IMAGE_PIXELS
from nas.data.features.raw_images import RawImages, join_names
from nas.data.features.store import FeatureStore
from nas.data.features.threads import BuildLimits

_BUILDING = ".building"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

OnNote = Callable[[str], None]
"""Receives lines of text for the user."""


def open_or_build(
    sources: FeatureSources,
    features: FeaturesConfig,
    cache_directory: Path,
    *,
    on_progress: OnProgress,
    on_note: OnNote,
    verify: bool = False,
    limits: BuildLimits | None = None,
    helpers: BuildHelpers | None = None,
) -> FeatureStore:
    """Return the features of a data set at every layer where models start to compute, cached or computed now.

    Args:
        sources: The data set and the encoders.
        features: Storage type, number of views, and disk budget. An existing store of any size is used.
        cache_directory: The cache; it has one folder per store.
        on_progress: Callback that receives the numbers of images and texts done and in total; not called if the store
            exists.
        on_note: Callback that receives notes for the user about builds, waiting and repairs.
        verify: Whether to hash all files of an existing store, whatever their times.
        limits: The cores and the memory that a build may use; None for one core.
        helpers: Further devices of this machine, and what starts processes on other machines that share the cache, if
            the build takes long; None without them.

    Raises:
        DataError: If an image cannot be read, a feature exceeds the storage type, or disk space is insufficient.
    """
    key = _cache_key(sources, features)
    directory = cache_directory / "features" / key
    if not directory.is_dir() or find_damage(directory, verify=verify) is not None:
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            with _lock(directory.with_name(f"{key}.lock"), on_note):
                _build_unless_intact(
                    directory, sources, features, limits or BuildLimits(), helpers, on_progress, on_note
                )
        except OSError as error:
            raise DataError(f"{cache_directory}: the features cannot be stored: {error.strerror or error}") from error
    images = RawImages(sources.images, sources.preprocessor, (limits or BuildLimits()).cores)
    return FeatureStore(directory, (sources.image_encoder, sources.text_encoder), images)


def help_build(sources: FeatureSources, features: FeaturesConfig, order: HelpOrder, limits: BuildLimits) -> None:
    """Compute blocks of a build that another process has started, until all are finished or claimed.

    Args:
        sources: The data set and the encoders.
        features: Storage type, number of views, and disk budget.
        order: The build.
        limits: The cores and the memory that this process may use.

    Raises:
        DataError: If data or encoders differ from those of the build, an image cannot be read, or a feature exceeds the
            storage type.
    """
    key = order.building.name.removesuffix(_BUILDING)
    build = FeatureBuild(sources, features)
    if _cache_key(sources, features) != key or build.identity(order.building) != order.identity:
        raise DataError(
            f"{order.building}: data, encoders or program of this machine differ from those of the build; expected "
            f"features {key}, got {_cache_key(sources, features)}"
        )
    build.help(order.building, build.threads(limits))


def _cache_key(sources: FeatureSources, features: FeaturesConfig) -> str:
    """Return a hash of everything that determines the numbers, but not of the disk budget, which only selects arrays.

    So an existing store is used under any budget; but where the arrays are chosen by the user, it has to have them. One
    without tokens has the paths of its images, which are then part of it.
    Stored data attention is part of it: it yields the same logits only up to rounding, and needs additional memory.
    """
    entry_layers = sorted(
        (tuple(entry) for entry in sources.entry_layers),
        key=lambda entry: [-2 if layer is None else layer for layer in entry],
    )
    uses_attention = features.attention and sources.uses_attention
    augmentation = PARAMETERS if features.views > 1 else ""
    contents = sorted(sources.contents.summary().items())
    forced: tuple[str, ...] = () if features.storage == "auto" else (features.storage,)
    if features.storage == "none":  # it has the paths of the images, and their sizes
        names = [name for _, samples in sorted(sources.dataset.splits.items()) for name in samples.images]
        forced = (*forced, hashlib.sha256(join_names(names).tobytes()).hexdigest(), IMAGE_PIXELS)
    facts = (FORMAT, entry_layers, features.dtype, features.views, uses_attention, augmentation, contents, *forced)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


@contextmanager
def _lock(path: Path, on_note: OnNote) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_note(f"features: another process is building them; waiting for it ({path})")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _build_unless_intact(
    directory: Path,
    sources: FeatureSources,
    features: FeaturesConfig,
    limits: BuildLimits,
    helpers: BuildHelpers | None,
    on_progress: OnProgress,
    on_note: OnNote,
) -> None:
    building = directory.with_name(f"{directory.name}{_BUILDING}")
    if directory.is_dir():
        damage = find_damage(directory)
        if damage is None:
            return  # built by another process while this one waited
        on_note(f"features: {directory} is damaged ({damage}); rebuilding it")
        shutil.rmtree(building, ignore_errors=True)
        delete_progress(directory)  # so that the build below reuses nothing of it
        directory.rename(building)  # so that no incomplete store ever has the final name
    build = FeatureBuild(sources, features, () if helpers is None else helpers.devices)
    needed = build.plan.size_bytes
    on_note(build.plan.describe(features))
    try:
        if build.identity(building) is None:
            shutil.rmtree(building, ignore_errors=True)
            _check_free_space(directory.parent, needed)
            build.start(building)
        elif build.has_finished_blocks(building):
            on_note("features: resuming an interrupted build")
        threads = build.threads(limits)
        if (costs := build.costs(threads)) is not None:
            on_note(costs)
        order = HelpOrder(building.resolve(), build.identity(building) or "", threads.per_batch)
        with HelpedProgress(helpers, order, on_progress) as progress:
            build.run(building, progress, threads)
        seal_store(
            building,
            build.plan,
            image_token_count=build.image_token_count,
            views=build.views,
            class_names=sources.dataset.class_names,
        )
        building.rename(directory)
        sync_directory(directory.parent)
        delete_progress(directory)
    except (DataError, OSError) as error:
        free = shutil.disk_usage(directory.parent).free
        if isinstance(error, NotFiniteError) or not build.has_finished_blocks(building):
            shutil.rmtree(building, ignore_errors=True)  # no progress to resume from
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            raise DataError(
                f"{directory.parent}: the features cannot be stored ({error.strerror}); expected files of up to "
                f"{format_bytes(needed)}; raise the limit (ulimit -f), or choose another place with --cache-dir"
            ) from error
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            raise _disk_full_error(directory.parent, needed, free, f"{error.strerror}") from error
        raise


def _check_free_space(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise _disk_full_error(directory, needed, free, "not enough free disk space")


def _disk_full_error(directory: Path, needed: int, free: int, reason: str) -> DataError:
    return DataError(
        f"{directory}: the features cannot be stored ({reason}); expected {format_bytes(needed)} of free space, got "
        f"{format_bytes(free)}; free some space, lower features.disk, or choose another place with --cache-dir"
    )
