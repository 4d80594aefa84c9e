"""From a configuration to what a search works on: encoders, data, base features, memory predictions."""

import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from nas.common.errors import DataError
from nas.common.progress import LineReporter, Reporter
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
from nas.memory.prediction import MemoryModel, TracedShapes
from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import load_encoder, load_image_processor, load_tokenizer, resolve_checkpoint
from nas.models.fusion.base import sizes_of
from nas.run.checks import check_inputs, check_space, image_shape
from nas.search.space import Architecture, EncoderSizes, EntryLayers, SearchSpace

_LISTED = 5
_TOKENISED_TOGETHER = 1024


@dataclass(frozen=True)
class SearchContext:
    """What a search works on.

    Args:
        image_encoder: Frozen, whole.
        text_encoder: Frozen, whole.
        preprocessor: Of these encoders.
        store: Features of train and validation; the test split is not in it.
        default: The family's default architecture for these encoders.
        memory: Predicts candidates' peaks.
    """

    image_encoder: Encoder
    text_encoder: Encoder
    preprocessor: Preprocessor
    store: FeatureStore
    default: Architecture
    memory: MemoryModel


def prepare(config: Config, *, source: str, cache_directory: Path, reporter: Reporter) -> SearchContext:
    """Load encoders, read train and validation, and compute or find their base features.

    Args:
        config: Of the search.
        source: Its file, for messages.
        cache_directory: Of the features.
        reporter: Shows how far it is.

    Raises:
        ConfigError: If the space does not fit the encoders.
        EncoderError: If an encoder cannot be loaded.
        DataError: If the data cannot be used.
    """
    image_encoder, text_encoder, preprocessor = _load(config, source)
    images = open_dataset_images(config.data)
    # All splits are checked now, so that nothing is found wrong at the end; the search is handed train and validation.
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
            entry_layers=frozenset(needed_reads(config.space, sizes)),
            uses_attention=config.space.architecture_class.reads_attention,
        ),
        config.features,
        cache_directory,
        on_progress=lambda done, total: reporter.progress("features", done, total),
        on_note=reporter.note,
    )
    counts = ", ".join(f"{len(samples)} {name}" for name, samples in dataset.splits.items())
    reporter.note(
        f"data: {counts} samples of {len(dataset.class_names)} classes; features: {format_bytes(store.size_bytes)} "
        f"({store.contents.dtype}, {store.contents.tier}) in {store.directory}"
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
    reporter = LineReporter(sys.stdout)
    return prepare(config, source=config.name, cache_directory=cache_directory, reporter=reporter).store.directory


def predict_memory(config: Config, *, source: str) -> tuple[MemoryModel, Architecture]:
    """Predicts peaks of a search without its images and features; beside it the family's default for its encoders.

    Args:
        config: Of the search.
        source: Its file, for messages.

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
        for start in range(0, len(samples), _TOKENISED_TOGETHER)
        for ids in preprocessor.token_ids(samples.texts[start : start + _TOKENISED_TOGETHER])
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
    """Make sure that the encoders can be loaded and that the space fits them.

    Raises:
        ConfigError: If it does not.
        EncoderError: If one cannot be loaded.
    """
    _load(config, source)


def _load(config: Config, source: str) -> tuple[Encoder, Encoder, Preprocessor]:
    """The encoders, and what prepares their inputs."""
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


def needed_reads(space: SearchSpace, sizes: EncoderSizes) -> list[EntryLayers]:
    """Where architectures of a space, and its family's default, start to compute."""
    everyone = [space.architecture_class.default(sizes), *(space.largest_at(layer) for layer in space.first_layers)]
    return list(dict.fromkeys(architecture.entry_layers(sizes) for architecture in everyone))


def first_layers(space: SearchSpace, sizes: EncoderSizes) -> tuple[int, int]:
    """Of the image and the text encoder, the first layer that is computed in training; the embedding counts as -1."""
    reads = needed_reads(space, sizes)
    image = min(sizes.image_layers if entry.image is None else entry.image for entry in reads)
    text = min(sizes.text_layers if entry.text is None else entry.text for entry in reads)
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
    image_token_count, text_token_count = token_counts
    decisive = (
        config.recipe,
        image_shape,
        token_counts,
        num_classes,
        config.features,
        config.space,
        config.data.has_several_labels,
    )
    return MemoryModel(
        image_config=image_config,
        text_config=text_config,
        recipe=config.recipe,
        image_shape=image_shape,
        image_token_count=image_token_count,
        text_token_count=text_token_count,
        num_classes=num_classes,
        features=config.features,
        space=config.space,
        has_several_labels=config.data.has_several_labels,
        architectures_per_step=config.supernet.architectures_per_step,
        rehearsed=_rehearsed(image_config.to_json_string(), text_config.to_json_string(), repr(decisive)),
    )


@lru_cache(maxsize=4)
def _rehearsed(image_config: str, text_config: str, decisive: str) -> TracedShapes:
    """For searches that one process makes one after another, as a comparison does: rehearsals take seconds."""
    del image_config, text_config, decisive
    return TracedShapes()


def _cut_texts(dataset: Dataset, preprocessor: Preprocessor) -> str:
    """How many texts are longer than what is read of them."""
    cut = total = 0
    for samples in dataset.splits.values():
        for start in range(0, len(samples), _TOKENISED_TOGETHER):
            cut += preprocessor.truncated_count(samples.texts[start : start + _TOKENISED_TOGETHER])
        total += len(samples)
    return f"{cut / total:.1%} of all texts are cut to {preprocessor.max_text_tokens} tokens"


def _readable(dataset: Dataset, images: ImageSource, skip: bool, cache_directory: Path, reporter: Reporter) -> Dataset:
    """The data set without samples whose image cannot be read, if the user allows that there are any.

    Raises:
        DataError: If there are and the user does not, or nothing is left.
    """
    names = list(dict.fromkeys(name for samples in dataset.splits.values() for name in samples.images))
    missing = set(
        find_unreadable_images(
            images, names, cache_directory, lambda done, total: reporter.progress("images", done, total)
        )
    )
    if not missing:
        return dataset
    listed = ", ".join(sorted(missing)[:_LISTED]) + (", …" if len(missing) > _LISTED else "")
    first = images.read_error(min(missing))
    if not skip:
        raise DataError(
            f"{images.location}: {len(missing)} of {len(names)} images are missing or cannot be read: {listed} "
            f"(of the first: {first}); set data.skip_unreadable_images: true to leave them out"
        )
    reporter.note(
        f"left out: {len(missing)} of {len(names)} images that are missing or cannot be read: {listed} (of the first: "
        f"{first})"
    )
    kept = Dataset(dataset.class_names, {name: samples.without(missing) for name, samples in dataset.splits.items()})
    for name, samples in kept.splits.items():
        if not len(samples):
            raise DataError(f"{images.location}: no readable image is left in the {name} split")
    return kept
