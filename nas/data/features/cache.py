"""Find a feature store in the cache or build it: one process at a time, damage found and mended.

A store's folder is named by the hash of everything that its numbers depend on. It is built beside its place and renamed
to it when it is complete, under a lock that the system releases when its holder ends, however that ends.
"""

import errno
import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.common.errors import DataError
from nas.common.files import sync_directory
from nas.common.units import format_bytes
from nas.config.schema import FeaturesConfig
from nas.data.augmentation import PARAMETERS
from nas.data.features.build import FeatureBuild, NotFiniteError, OnProgress, forget_progress
from nas.data.features.files import FORMAT, complete, damage
from nas.data.features.inputs import Sources
from nas.data.features.store import FeatureStore
from nas.data.images import ImageSource
from nas.data.preprocessing import Preprocessor
from nas.data.samples import Dataset
from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import weights_digest
from nas.search.space import EntryLayers

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

OnNote = Callable[[str], None]
"""Called with a line for the person who waits."""


def open_or_build(
    *,
    dataset: Dataset,
    images: ImageSource,
    preprocessor: Preprocessor,
    image_encoder: Encoder,
    text_encoder: Encoder,
    reads: Iterable[EntryLayers],
    has_attention: bool,
    features: FeaturesConfig,
    cache_directory: Path,
    on_progress: OnProgress,
    on_note: OnNote,
) -> FeatureStore:
    """The features of a data set wherever models start to compute, from the cache or computed now.

    Args:
        dataset: Its splits are stored.
        images: Where the images lie.
        preprocessor: Turns images and texts into tensors.
        image_encoder: Frozen, float32.
        text_encoder: Frozen, float32.
        reads: All that will be asked for.
        has_attention: Whether data attention is made use of, where `features` allows it.
        features: Type, views, and the disk that may be used. A store that is there is used, whatever it takes.
        cache_directory: Holds one folder a key.
        on_progress: Told images and texts done; not at all when the features are found.
        on_note: Told what is going to be built, and what is waited for or mended.

    Raises:
        DataError: If an image cannot be read, a feature does not fit the type, or there is too little disk.
    """
    sources = Sources(
        dataset=dataset,
        images=images,
        preprocessor=preprocessor,
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        reads=tuple(sorted(set(reads), key=lambda entry: [-2 if layer is None else layer for layer in entry])),
        has_attention=has_attention,
    )
    key = _key(sources, features)
    directory = cache_directory / "features" / key
    if not directory.is_dir() or damage(directory) is not None:
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            with _lock(directory.with_name(f"{key}.lock"), on_note):
                _build_unless_whole(directory, sources, features, on_progress, on_note)
        except OSError as error:
            raise DataError(f"{cache_directory}: the features cannot be stored: {error.strerror or error}") from error
    return FeatureStore(directory, (image_encoder, text_encoder))


def _key(sources: Sources, features: FeaturesConfig) -> str:
    """Everything that the numbers depend on, and nothing else: not which of them the disk budget lets be stored.

    Data attention that is read is another way to the same logits, apart from rounding, and takes memory of its own.
    """
    reads = [tuple(entry) for entry in sources.reads]
    uses_attention = features.attention and sources.has_attention
    facts = (FORMAT, reads, sources.dataset.class_names, features.dtype, features.views, uses_attention)
    digest = hashlib.sha256(f"{facts} {PARAMETERS if features.views > 1 else ''}".encode())
    for part in (
        weights_digest(sources.image_encoder),
        weights_digest(sources.text_encoder),
        sources.preprocessor.fingerprint(),
    ):
        digest.update(part.encode())
    for split, samples in sources.dataset.splits.items():
        digest.update(split.encode())
        digest.update(samples.labels.tobytes())
        for image, text in zip(samples.images, samples.texts, strict=True):
            digest.update(f"{image}\0{sources.images.fingerprint(image)}\0{text}\0".encode())
    return digest.hexdigest()[:32]


@contextmanager
def _lock(path: Path, on_note: OnNote) -> Iterator[None]:
    # The file stays: removing it would let two processes hold locks on two files of one name.
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_note(f"features: another process builds them; waiting for it ({path})")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build_unless_whole(
    directory: Path, sources: Sources, features: FeaturesConfig, on_progress: OnProgress, on_note: OnNote
) -> None:
    building = directory.with_name(f"{directory.name}.building")
    if directory.is_dir():
        problem = damage(directory)
        if problem is None:
            return  # another process has built it while this one waited
        on_note(f"features: {directory} is damaged ({problem}); they are computed anew")
        shutil.rmtree(building, ignore_errors=True)
        forget_progress(directory)  # so that nothing of it is taken over ...
        directory.rename(building)  # ... and so that never half a store has its name
    build = FeatureBuild(sources, features)
    plan, done = build.plan, build.steps_done(building)
    on_note(
        f"features: {plan.describe()}; {format_bytes(plan.size_bytes)} of the {format_bytes(features.disk_bytes)} that "
        f"features.disk allows, as {plan.dtype}"
        + (f", {features.views} views of every training image" if features.views > 1 else "")
    )
    try:
        if done is None:
            shutil.rmtree(building, ignore_errors=True)
            _check_room(directory.parent, plan.size_bytes)
            build.start(building)
        elif done:
            on_note("features: an earlier build was stopped; it goes on from there")
        build.run(building, on_progress)
        complete(building, plan, build.image_token_count, build.views, sources.dataset.class_names)
        building.rename(directory)
        sync_directory(directory.parent)
        forget_progress(directory)
    except (DataError, OSError) as error:
        free = shutil.disk_usage(directory.parent).free
        if isinstance(error, NotFiniteError) or not build.steps_done(building):
            shutil.rmtree(building, ignore_errors=True)  # there is nothing that could be gone on with
        if isinstance(error, OSError) and error.errno in _FULL:
            raise _disk_full(directory.parent, plan.size_bytes, free, f"{error.strerror}") from error
        raise


def _check_room(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise _disk_full(directory, needed, free, "the disk is too full")


def _disk_full(directory: Path, needed: int, free: int, reason: str) -> DataError:
    return DataError(
        f"{directory}: the features cannot be stored ({reason}): they need {format_bytes(needed)}, "
        f"{format_bytes(free)} are free; make room, lower features.disk, or name another place by --cache-dir"
    )
