"""Prepare a search: encoders, data, cached encoder outputs, memory predictions."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from nas.common.devices import CPU, is_here
from nas.common.progress import Reporter, build_reporter
from nas.common.units import format_bytes
from nas.config.schema import Config
from nas.data.contents import Contents
from nas.data.dataset import open_dataset_images, read_dataset
from nas.data.features.cache import open_or_build
from nas.data.features.costs import seconds_per_token
from nas.data.features.helpers import BuildHelpers
from nas.data.features.inputs import FeatureSources
from nas.data.features.placing import placed_on
from nas.data.features.store import FeatureStore
from nas.data.features.threads import BuildLimits
from nas.data.image_sizes import pixel_counts
from nas.data.preprocessing import Preprocessor
from nas.data.samples import Dataset
from nas.data.text_check import check_texts
from nas.memory.prediction import MemoryModel
from nas.memory.step_tracing import TaskShapes
from nas.models.class_texts import ClassTexts
from nas.models.encoders.base import Encoder
from nas.models.fusion.base import sizes_of
from nas.run.checks import check_lengths, image_shape
from nas.run.memory_model import build_memory_model
from nas.run.sources import CheckContents, load_encoders, needed_entry_layers, read_class_texts, read_sources
from nas.search.space import RAW, WHOLE, Architecture, EncoderSizes

_TOKENIZER_BATCH = 1024
_LOADING_SECONDS = 2.0
"""The usual time of exporting, reloading and copying a model."""


@dataclass(frozen=True)
class SearchContext:
    """Everything that a search is prepared with.

    Args:
        image_encoder: The whole, frozen image encoder.
        text_encoder: The whole, frozen text encoder.
        preprocessor: The image processor and tokenizer of these encoders.
        store: The cached encoder outputs of train and validation, never of test.
        default: The family's default architecture for these encoders.
        memory: The memory predictions of candidates.
        contents: The content of the data and of the encoders.
        evaluation_seconds: The estimated time of evaluating one model on the test split.
        class_texts: The texts of the classes, for a family that reads them.
    """

    image_encoder: Encoder
    text_encoder: Encoder
    preprocessor: Preprocessor
    store: FeatureStore
    default: Architecture
    memory: MemoryModel
    contents: Contents
    evaluation_seconds: float = 0.0
    class_texts: ClassTexts | None = None


def prepare(
    config: Config,
    *,
    source: str,
    cache_directory: Path,
    reporter: Reporter,
    verify: bool = False,
    check: CheckContents | None = None,
    device: torch.device = CPU,
    helpers: BuildHelpers | None = None,
) -> SearchContext:
    """Load the encoders, read the data, and compute the encoder outputs of train and validation or find them cached.

    Args:
        config: The configuration of the search.
        source: The name of its file, for messages.
        cache_directory: The directory of cached encoder outputs.
        reporter: The receiver of messages.
        verify: Whether to hash images, weights and cached outputs, whatever their times.
        check: Function that refuses contents that are not those of an earlier session.
        device: The device of the workers. It computes the encoder outputs as well, if this machine has it.
        helpers: Starts processes on other machines that compute encoder outputs, too; None without them.

    Raises:
        NasError: If the space does not fit the encoders, an encoder cannot be loaded, or the data cannot be used.
    """
    sources = read_sources(
        config,
        source=source,
        cache_directory=cache_directory,
        reporter=reporter,
        verify=verify,
        check=check,
        device=device if is_here(device) else CPU,
    )
    image_encoder, text_encoder, preprocessor = sources.image_encoder, sources.text_encoder, sources.preprocessor
    progress = _FeatureProgress(reporter, None if check is not None else config.budget.time_seconds)
    class_texts = read_class_texts(config, source, text_encoder, preprocessor, sources.dataset.class_names)
    store = _open_features(sources, config, cache_directory, reporter, progress, verify=verify, helpers=helpers)
    sizes = sizes_of(image_encoder, text_encoder)
    return SearchContext(
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        preprocessor=preprocessor,
        store=store,
        default=default_architecture(config, sizes),
        memory=build_memory_model(
            config,
            (image_encoder.config, text_encoder.config),
            _task(config, sources.dataset, preprocessor, class_texts, _shapes_of(store)),
            first_layers=first_layers(config, sizes),
            device=device,
        ),
        contents=sources.contents,
        evaluation_seconds=_evaluation_seconds(sources, store),
        class_texts=class_texts,
    )


class _InputShapes(NamedTuple):
    """Numbers of tokens of an image and of the longest text, and of pixels of the largest picture that steps decode."""

    image_tokens: int
    text_tokens: int
    largest_picture: int


def _shapes_of(store: FeatureStore) -> _InputShapes:
    largest = max(split.largest_picture for split in store.splits.values())
    return _InputShapes(store.image_token_count, store.longest_text, largest)


def _task(
    config: Config,
    dataset: Dataset,
    preprocessor: Preprocessor,
    class_texts: ClassTexts | None,
    inputs: _InputShapes,
) -> TaskShapes:
    """Return the shapes of a task."""
    return TaskShapes(
        image_shape(preprocessor),
        image_token_count=inputs.image_tokens,
        text_token_count=inputs.text_tokens,
        largest_picture=inputs.largest_picture,
        num_classes=len(dataset.class_names),
        label_kind=config.data.label_kind,
        train_samples=len(dataset.splits["train"]),
        class_texts=class_texts,
    )


def _evaluation_seconds(sources: FeatureSources, store: FeatureStore) -> float:
    """Return the estimated time of loading a model and computing the encoder outputs of the test split with it."""
    tokens = (store.image_token_count, store.longest_text)
    encoders = (sources.image_encoder, sources.text_encoder)
    with placed_on(encoders, sources.device):
        sample_seconds = sum(
            count * encoder.num_layers * seconds_per_token(encoder, sources.device)
            for count, encoder in zip(tokens, encoders, strict=True)
        )
    return _LOADING_SECONDS + sources.test_count * sample_seconds


def _open_features(
    sources: FeatureSources,
    config: Config,
    cache_directory: Path,
    reporter: Reporter,
    progress: "_FeatureProgress",
    *,
    verify: bool,
    helpers: BuildHelpers | None,
) -> FeatureStore:
    """Return the cached encoder outputs of the data, computed now if necessary, and report their size."""
    store = open_or_build(
        sources,
        config.features,
        cache_directory,
        on_progress=progress,
        on_note=reporter.note,
        verify=verify,
        limits=BuildLimits(torch.get_num_threads(), config.budget.memory_bytes),
        helpers=helpers,
    )
    counts = ", ".join(f"{len(samples)} {name}" for name, samples in sources.dataset.splits.items())
    what = "pairs" if config.data.is_retrieval else f"samples of {len(store.class_names)} classes"
    reporter.note(
        f"Data: {counts} {what}. Encoder outputs: "
        f"{format_bytes(store.size_bytes)} ({store.contents.dtype}, {store.contents.tier}) in {store.directory}"
    )
    return store


class _FeatureProgress:
    """Reports the progress of a build, and how long it and the search after it take together.

    Args:
        reporter: The receiver of the progress.
        search_seconds: The time budget of the search; None if it has none, or an earlier session has used part of it.
    """

    def __init__(self, reporter: Reporter, search_seconds: float | None) -> None:
        self._search_seconds = search_seconds
        self._reporter = reporter
        self._started: tuple[float, int] | None = None

    def __call__(self, done: int, total: int) -> None:
        now, left = time.monotonic(), None
        if self._started is None:  # a resumed build starts with what is finished
            self._started = now, done
        started_at, first = self._started
        if self._search_seconds is not None and done > first:
            left = (now - started_at) / (done - first) * (total - done) + self._search_seconds
        self._reporter.progress("features", done, total, left_seconds=left)


def build_features(config: Config, cache_directory: Path) -> Path:
    """Build or find the features of a search on another node of a cluster; returns the directory of the store.

    The lines that it reports go to the log that Ray keeps of the process.

    Args:
        config: The configuration of the search.
        cache_directory: The feature cache of the node.

    Raises:
        NasError: If data or encoders cannot be read on this node.
    """
    reporter = build_reporter()
    return prepare(config, source=config.name, cache_directory=cache_directory, reporter=reporter).store.directory


def predict_memory(config: Config, *, source: str, device: torch.device = CPU) -> tuple[MemoryModel, Architecture]:
    """Predict the memory of a search without its cached encoder outputs, and without its images if these are cached.

    Args:
        config: The configuration of the search.
        source: The name of its file, for messages.
        device: The device of the workers.

    Returns:
        The memory predictions, and the family's default architecture for the encoders.

    Raises:
        ConfigError: If the space does not fit the encoders.
        EncoderError: If an encoder cannot be loaded.
        DataError: If the manifest cannot be used.
    """
    image_encoder, text_encoder, preprocessor = load_encoders(config, source)
    dataset = read_dataset(config.data, ("train", "validation"), compares_images=False)
    check_texts(dataset, preprocessor)
    check_lengths(config, len(dataset.splits["train"]), source=source)
    with torch.inference_mode():
        image_tokens = image_encoder.embed(torch.zeros(1, *image_shape(preprocessor)))
    longest = max(
        len(ids)
        for samples in dataset.splits.values()
        for start in range(0, len(samples), _TOKENIZER_BATCH)
        for ids in preprocessor.token_ids(samples.texts[start : start + _TOKENIZER_BATCH])
    )
    sizes = sizes_of(image_encoder, text_encoder)
    class_texts = read_class_texts(config, source, text_encoder, preprocessor, dataset.class_names)
    largest = _largest_picture(config, dataset) if config.features.storage == "none" else 0
    inputs = _InputShapes(int(image_tokens.shape[1]), longest, largest)
    memory = build_memory_model(
        config,
        (image_encoder.config, text_encoder.config),
        _task(config, dataset, preprocessor, class_texts, inputs),
        first_layers=first_layers(config, sizes),
        device=device,
    )
    return memory, default_architecture(config, sizes)


def _largest_picture(config: Config, dataset: Dataset) -> int:
    """Return the number of pixels of the largest image of a data set, of which only the start of each is read."""
    names = dict.fromkeys(name for samples in dataset.splits.values() for name in samples.images)
    return int(pixel_counts(open_dataset_images(config.data), list(names)).max())


def default_architecture(config: Config, sizes: EncoderSizes) -> Architecture:
    """Return the family's default architecture for the task of a search.

    Args:
        config: The configuration of the search.
        sizes: The sizes of the encoders.
    """
    family = config.space.architecture_class
    return family.default_for_retrieval(sizes) if config.data.is_retrieval else family.default(sizes)


def first_layers(config: Config, sizes: EncoderSizes) -> tuple[int, int]:
    """Return the first layer of the image and of the text encoder that workers compute.

    It is `RAW` for an encoder that a model trains as a whole, and `WHOLE` for one whose frozen layers are computed in
    every step, since nothing of them is stored, or of the texts of the classes.

    Args:
        config: The configuration of the search.
        sizes: The sizes of the encoders.
    """
    entries = needed_entry_layers(config.space, sizes)

    def first(layers: list[int | None], num_layers: int) -> int:
        used = [layer for layer in layers if layer is not None]
        if not used:
            return num_layers
        return WHOLE if config.features.storage == "none" and min(used) != RAW else min(used)

    image = first([entry.image for entry in entries], sizes.image_layers)
    if config.space.architecture_class.reads_class_texts:
        return image, WHOLE
    return image, first([entry.text for entry in entries], sizes.text_layers)
