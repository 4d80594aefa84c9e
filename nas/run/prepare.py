"""Prepare a search: encoders, data, cached encoder outputs, memory predictions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from nas.common.devices import CPU
from nas.common.progress import Reporter, build_reporter
from nas.common.units import format_bytes
from nas.config.schema import Config
from nas.data.contents import Contents, describe_contents, encoder_parts
from nas.data.dataset import open_dataset_images, read_dataset
from nas.data.digests import image_digests
from nas.data.features.cache import open_or_build
from nas.data.features.inputs import FeatureSources
from nas.data.features.store import FeatureStore
from nas.data.features.threads import BuildLimits
from nas.data.image_check import check_images, without_unreadable
from nas.data.images import ImageSource
from nas.data.preprocessing import Preprocessor
from nas.data.samples import SPLITS, Dataset
from nas.data.summary import summarize
from nas.data.text_check import check_texts
from nas.memory.prediction import MemoryModel
from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import load_encoder, resolve_checkpoint
from nas.models.encoders.pretrained import PROCESSOR_FILES, load_image_processor, load_tokenizer, place_in
from nas.models.fusion.base import sizes_of
from nas.run.checks import check_inputs, check_lengths, check_space, image_shape
from nas.run.memory_model import build_memory_model
from nas.search.space import Architecture, EncoderSizes, EntryLayers, SearchSpace

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
        contents: The content of the data and of the encoders.
    """

    image_encoder: Encoder
    text_encoder: Encoder
    preprocessor: Preprocessor
    store: FeatureStore
    default: Architecture
    memory: MemoryModel
    contents: Contents


CheckContents = Callable[[Dataset, Contents], None]
"""Checks the samples of train and validation and the content of data and encoders, before anything is computed."""


def prepare(
    config: Config,
    *,
    source: str,
    cache_directory: Path,
    reporter: Reporter,
    verify: bool = False,
    check: CheckContents | None = None,
    device: torch.device = CPU,
) -> SearchContext:
    """Load the encoders, read the data, and compute the encoder outputs of train and validation or find them cached.

    Args:
        config: The configuration of the search.
        source: The name of its file, for messages.
        cache_directory: The directory of cached encoder outputs.
        reporter: The receiver of messages.
        verify: Whether to hash images, weights and cached outputs, whatever their times.
        check: Function that refuses contents that are not those of an earlier session.
        device: The device that computes the encoder outputs.

    Raises:
        NasError: If the space does not fit the encoders, an encoder cannot be loaded, or the data cannot be used.
    """
    image_encoder, text_encoder, preprocessor = _load(config, source)
    encoders = (image_encoder, text_encoder)
    data = _read_data(config, preprocessor, cache_directory, reporter, source=source, verify=verify)
    parts = encoder_parts(encoders, preprocessor, resolve_checkpoints(config), cache_directory, verify=verify)
    contents = describe_contents(data.dataset, data.digests, parts)
    if check is not None:
        check(data.dataset, contents)
    sources = FeatureSources(
        dataset=data.dataset,
        images=data.images,
        preprocessor=preprocessor,
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        entry_layers=frozenset(needed_entry_layers(config.space, sizes_of(*encoders))),
        uses_attention=config.space.architecture_class.reads_attention,
        contents=contents,
        device=device,
    )
    store = _open_features(sources, config, cache_directory, reporter, verify=verify)
    return SearchContext(
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        preprocessor=preprocessor,
        store=store,
        default=config.space.architecture_class.default(sizes_of(*encoders)),
        memory=build_memory_model(
            config,
            (image_encoder.config, text_encoder.config),
            image_shape=image_shape(preprocessor),
            token_counts=(store.image_token_count, store.longest_text),
            num_classes=len(store.class_names),
            train_samples=len(store.splits["train"]),
        ),
        contents=contents,
    )


@dataclass(frozen=True)
class _Data:
    dataset: Dataset
    images: ImageSource
    digests: Mapping[str, str | None]


def _read_data(
    config: Config,
    preprocessor: Preprocessor,
    cache_directory: Path,
    reporter: Reporter,
    *,
    source: str,
    verify: bool,
) -> _Data:
    """Return the readable samples of train and validation, and the digests of their images."""
    images = open_dataset_images(config.data)
    # All splits are checked now rather than at the end; the search itself receives train and validation only.
    whole = read_dataset(config.data, SPLITS)
    check_texts(whole, preprocessor)
    check_lengths(config, len(whole.splits["train"]), source=source)
    for line in [*summarize(whole), _cut_texts(whole, preprocessor)]:
        reporter.note(line)
    digests = image_digests(
        images,
        (name for samples in whole.splits.values() for name in samples.images),
        cache_directory,
        verify=verify,
        on_progress=lambda done, total: reporter.progress("hashes", done, total),
    )
    whole = _readable(whole, images, digests, config.data.skip_unreadable_images, cache_directory, reporter)
    splits = {split: whole.splits[split] for split in ("train", "validation")}
    return _Data(Dataset(whole.class_names, splits), images, digests)


def _open_features(
    sources: FeatureSources, config: Config, cache_directory: Path, reporter: Reporter, *, verify: bool
) -> FeatureStore:
    """Return the cached encoder outputs of the data, computed now if necessary, and report their size."""
    store = open_or_build(
        sources,
        config.features,
        cache_directory,
        on_progress=lambda done, total: reporter.progress("features", done, total),
        on_note=reporter.note,
        verify=verify,
        limits=BuildLimits(torch.get_num_threads(), config.budget.memory_bytes),
    )
    counts = ", ".join(f"{len(samples)} {name}" for name, samples in sources.dataset.splits.items())
    reporter.note(
        f"Data: {counts} samples of {len(store.class_names)} classes. Encoder outputs: "
        f"{format_bytes(store.size_bytes)} ({store.contents.dtype}, {store.contents.tier}) in {store.directory}"
    )
    return store


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
    memory = build_memory_model(
        config,
        (image_encoder.config, text_encoder.config),
        image_shape=image_shape(preprocessor),
        token_counts=(int(image_tokens.shape[1]), longest),
        num_classes=len(dataset.class_names),
        train_samples=len(dataset.splits["train"]),
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
    checkpoints = resolve_checkpoints(config)
    image_encoder, text_encoder = load_encoder(checkpoints[0], "image"), load_encoder(checkpoints[1], "text")
    check_space(config, source, image_encoder, text_encoder)
    preprocessor = Preprocessor(
        image_processor=load_image_processor(checkpoints[0]),
        tokenizer=load_tokenizer(checkpoints[1]),
        max_text_tokens=config.data.max_text_tokens or text_encoder.max_text_tokens,
        image_source=place_in(checkpoints[0], *PROCESSOR_FILES),
    )
    check_inputs(image_encoder, text_encoder, preprocessor, checkpoints)
    return image_encoder, text_encoder, preprocessor


def resolve_checkpoints(config: Config) -> tuple[str, str]:
    """Return the folder, or the name on the hub, of the image and the text encoder.

    Args:
        config: The configuration of the search.

    Raises:
        EncoderError: If one of them does not exist.
    """
    image, text = (resolve_checkpoint(name, Path.cwd()) for name in (config.encoders.image, config.encoders.text))
    return image, text


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


def _cut_texts(dataset: Dataset, preprocessor: Preprocessor) -> str:
    """Return the line about texts that are longer than the text encoder reads."""
    cut = total = 0
    for samples in dataset.splits.values():
        for start in range(0, len(samples), _TOKENIZER_BATCH):
            cut += preprocessor.truncated_count(samples.texts[start : start + _TOKENIZER_BATCH])
        total += len(samples)
    return f"Texts longer than {preprocessor.max_text_tokens} tokens are cut: {cut / total:.1%} of all"


def _readable(
    dataset: Dataset,
    images: ImageSource,
    digests: Mapping[str, str | None],
    skip: bool,
    cache_directory: Path,
    reporter: Reporter,
) -> Dataset:
    """Return the data set without the samples whose image cannot be read; see `without_unreadable`."""
    unreadable, notes = check_images(
        images, digests, cache_directory, lambda done, total: reporter.progress("images", done, total)
    )
    dataset, skipped = without_unreadable(dataset, images, unreadable, skip=skip)
    for line in (*skipped, *notes):
        reporter.note(line)
    return dataset
