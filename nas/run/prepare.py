"""Prepare a search: encoders, data, cached encoder outputs, memory predictions."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from nas.common.errors import DataError
from nas.common.progress import Reporter, build_reporter
from nas.common.units import format_bytes
from nas.config.schema import Config
from nas.data.dataset import open_dataset_images, read_dataset
from nas.data.features.cache import open_or_build
from nas.data.features.inputs import FeatureSources
from nas.data.features.store import FeatureStore
from nas.data.image_check import find_unreadable_images
from nas.data.images import ImageSource
from nas.data.preprocessing import Preprocessor
from nas.data.samples import SPLITS, Dataset
from nas.data.summary import summarize
from nas.memory.prediction import MemoryModel, TraceCache
from nas.memory.step_tracing import TaskShapes
from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import load_encoder, resolve_checkpoint
from nas.models.encoders.pretrained import load_image_processor, load_tokenizer
from nas.models.fusion.base import sizes_of
from nas.run.checks import check_inputs, check_space, image_shape
from nas.search.space import Architecture, EncoderSizes, EntryLayers, SearchSpace

_MAX_LISTED = 5
_TOKENIZER_BATCH = 1024


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
    """

    image_encoder: Encoder
    text_encoder: Encoder
    preprocessor: Preprocessor
    store: FeatureStore
    default: Architecture
    memory: MemoryModel


def prepare(config: Config, *, source: str, cache_directory: Path, reporter: Reporter) -> SearchContext:
    """Load the encoders, read the data, and compute the encoder outputs of train and validation or find them cached.

    Args:
        config: The configuration of the search.
        source: The name of its file, for messages.
        cache_directory: The directory of cached encoder outputs.
        reporter: The receiver of messages.

    Raises:
        ConfigError: If the space does not fit the encoders.
        EncoderError: If an encoder cannot be loaded.
        DataError: If the data cannot be used.
    """
    image_encoder, text_encoder, preprocessor = _load(config, source)
    images = open_dataset_images(config.data)
    # All splits are checked now rather than at the end; the search itself receives train and validation only.
    whole = read_dataset(config.data, SPLITS)
    for line in [*summarize(whole), _cut_texts(whole, preprocessor)]:
        reporter.note(line)
    whole = _readable(whole, images, config.data.skip_unreadable_images, cache_directory, reporter)
    dataset = Dataset(whole.class_names, {split: whole.splits[split] for split in ("train", "validation")})
    sizes = sizes_of(image_encoder, text_encoder)
    default = config.space.architecture_class.default(sizes)
    store = open_or_build(
        FeatureSources(
            dataset=dataset,
            images=images,
            preprocessor=preprocessor,
            image_encoder=image_encoder,
            text_encoder=text_encoder,
            entry_layers=frozenset(needed_entry_layers(config.space, sizes)),
            uses_attention=config.space.architecture_class.reads_attention,
        ),
        config.features,
        cache_directory,
        on_progress=lambda done, total: reporter.progress("features", done, total),
        on_note=reporter.note,
    )
    counts = ", ".join(f"{len(samples)} {name}" for name, samples in dataset.splits.items())
    reporter.note(
        f"Data: {counts} samples of {len(dataset.class_names)} classes. Encoder outputs: "
        f"{format_bytes(store.size_bytes)} ({store.contents.dtype}, {store.contents.tier}) in {store.directory}"
    )
    longest = max(int(split.text_lengths.max()) for split in store.splits.values())
    return SearchContext(
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        preprocessor=preprocessor,
        store=store,
        default=default,
        memory=_memory_model(
            config,
            (image_encoder.config, text_encoder.config),
            image_shape=image_shape(preprocessor),
            token_counts=(store.image_token_count, longest),
            num_classes=len(store.class_names),
        ),
    )


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


def predict_memory(config: Config, *, source: str) -> tuple[MemoryModel, Architecture]:
    """Predict the memory of a search without its images and cached encoder outputs.

    Args:
        config: The configuration of the search.
        source: The name of its file, for messages.

    Returns:
        The memory predictions, and the family's default architecture for the encoders.

    Raises:
        ConfigError: If the space does not fit the encoders.
        EncoderError: If an encoder cannot be loaded.
        DataError: If the manifest cannot be used.
    """
    image_encoder, text_encoder, preprocessor = _load(config, source)
    dataset = read_dataset(config.data, ("train", "validation"), compares_images=False)
    with torch.inference_mode():
        image_tokens = image_encoder.embed(torch.zeros(1, *image_shape(preprocessor)))
    longest = max(
        len(ids)
        for samples in dataset.splits.values()
        for start in range(0, len(samples), _TOKENIZER_BATCH)
        for ids in preprocessor.token_ids(samples.texts[start : start + _TOKENIZER_BATCH])
    )
    memory = _memory_model(
        config,
        (image_encoder.config, text_encoder.config),
        image_shape=image_shape(preprocessor),
        token_counts=(int(image_tokens.shape[1]), longest),
        num_classes=len(dataset.class_names),
    )
    return memory, config.space.architecture_class.default(sizes_of(image_encoder, text_encoder))


def check_encoders(config: Config, *, source: str) -> None:
    """Check that the encoders can be loaded and that the search space fits them.

    Args:
        config: The configuration of the search.
        source: The name of its file, for messages.

    Raises:
        ConfigError: If the space does not fit.
        EncoderError: If an encoder cannot be loaded.
    """
    _load(config, source)


def _load(config: Config, source: str) -> tuple[Encoder, Encoder, Preprocessor]:
    """Load and check the encoders and the preprocessor of their inputs."""
    checkpoints = [resolve_checkpoint(name, Path.cwd()) for name in (config.encoders.image, config.encoders.text)]
    image_encoder, text_encoder = load_encoder(checkpoints[0], "image"), load_encoder(checkpoints[1], "text")
    check_space(config, source, image_encoder, text_encoder)
    preprocessor = Preprocessor(
        image_processor=load_image_processor(checkpoints[0]),
        tokenizer=load_tokenizer(checkpoints[1]),
        max_text_tokens=config.data.max_text_tokens or text_encoder.max_text_tokens,
    )
    check_inputs(image_encoder, text_encoder, preprocessor, checkpoints)
    return image_encoder, text_encoder, preprocessor


def needed_entry_layers(space: SearchSpace, sizes: EncoderSizes) -> list[EntryLayers]:
    """Return the encoder layers from which the architectures of a space, and its family's default, start to compute.

    Args:
        space: The search space.
        sizes: The sizes of the encoders.
    """
    candidates = [space.architecture_class.default(sizes), *(space.largest_at(layer) for layer in space.first_layers)]
    return list(dict.fromkeys(architecture.entry_layers(sizes) for architecture in candidates))


def first_layers(space: SearchSpace, sizes: EncoderSizes) -> tuple[int, int]:
    """Return the first layer of the image and of the text encoder that training computes; the embedding counts as -1.

    Args:
        space: The search space.
        sizes: The sizes of the encoders.
    """
    entries = needed_entry_layers(space, sizes)
    image = min(sizes.image_layers if entry.image is None else entry.image for entry in entries)
    text = min(sizes.text_layers if entry.text is None else entry.text for entry in entries)
    return image, text


def _memory_model(
    config: Config,
    encoders: tuple[PreTrainedConfig, PreTrainedConfig],
    *,
    image_shape: tuple[int, ...],
    token_counts: tuple[int, int],
    num_classes: int,
) -> MemoryModel:
    image_config, text_config = encoders
    task = TaskShapes(image_shape, *token_counts, num_classes, config.data.has_several_labels)
    shared_by = (config.recipe, config.features, task, config.space)
    return MemoryModel(
        image_config=image_config,
        text_config=text_config,
        recipe=config.recipe,
        features=config.features,
        task=task,
        space=config.space,
        architectures_per_step=config.supernet.architectures_per_step,
        traces=_trace_cache(image_config.to_json_string(), text_config.to_json_string(), repr(shared_by)),
    )


@lru_cache(maxsize=4)
def _trace_cache(image_config: str, text_config: str, shared_by: str) -> TraceCache:
    """Return the traces that searches of one process share, as in a comparison, since tracing takes seconds."""
    del image_config, text_config, shared_by
    return TraceCache()


def _cut_texts(dataset: Dataset, preprocessor: Preprocessor) -> str:
    """Return the line about texts that are longer than the text encoder reads."""
    cut = total = 0
    for samples in dataset.splits.values():
        for start in range(0, len(samples), _TOKENIZER_BATCH):
            cut += preprocessor.truncated_count(samples.texts[start : start + _TOKENIZER_BATCH])
        total += len(samples)
    return f"Texts longer than {preprocessor.max_text_tokens} tokens are cut: {cut / total:.1%} of all"


def _readable(dataset: Dataset, images: ImageSource, skip: bool, cache_directory: Path, reporter: Reporter) -> Dataset:
    """Return the data set without the samples whose image cannot be read.

    Raises:
        DataError: If an image cannot be read and the configuration does not allow that, or no sample of a split is
            left.
    """
    names = list(dict.fromkeys(name for samples in dataset.splits.values() for name in samples.images))
    missing = set(
        find_unreadable_images(
            images, names, cache_directory, lambda done, total: reporter.progress("images", done, total)
        )
    )
    if not missing:
        return dataset
    listed = ", ".join(sorted(missing)[:_MAX_LISTED]) + (", …" if len(missing) > _MAX_LISTED else "")
    first = images.read_error(min(missing))
    if not skip:
        raise DataError(
            f"{images.location}: {len(missing)} of {len(names)} images are missing or cannot be read: {listed} "
            f"(the first: {first}); set data.skip_unreadable_images: true to skip them"
        )
    reporter.note(
        f"Skipped: {len(missing)} of {len(names)} images that are missing or cannot be read: {listed} (the first: "
        f"{first})"
    )
    kept = Dataset(dataset.class_names, {name: samples.without(missing) for name, samples in dataset.splits.items()})
    for name, samples in kept.splits.items():
        if not len(samples):
            raise DataError(f"{images.location}: the {name} split has no readable image; expected at least one")
    return kept
