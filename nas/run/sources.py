"""Read what a search computes its encoder outputs from: the encoders, and the samples of train and validation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nas.common.devices import CPU, use_deterministic_kernels
from nas.common.errors import ConfigError
from nas.common.progress import Reporter
from nas.config.schema import Config
from nas.data.class_texts import LongClassText, tokenize_classes
from nas.data.contents import Contents, describe_contents, encoder_parts
from nas.data.dataset import open_dataset_images, read_dataset
from nas.data.digests import image_digests
from nas.data.features.inputs import FeatureSources
from nas.data.image_check import check_images, without_unreadable
from nas.data.images import ImageSource
from nas.data.preprocessing import Preprocessor
from nas.data.samples import SPLITS, Dataset
from nas.data.summary import summarize
from nas.data.text_check import check_texts
from nas.models.class_texts import ClassTexts
from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import load_encoder, resolve_checkpoint
from nas.models.encoders.pretrained import PROCESSOR_FILES, load_image_processor, load_tokenizer, place_in
from nas.models.fusion.base import sizes_of
from nas.models.fusion.dual_encoder import longest_class_text
from nas.run.checks import check_common_space, check_inputs, check_lengths, check_space, mask_vocabulary
from nas.search.space import EncoderSizes, EntryLayers, SearchSpace

_TOKENIZER_BATCH = 1024

CheckContents = Callable[[Dataset, Contents], None]
"""Checks the samples of train and validation and the content of data and encoders, before anything is computed."""


def read_sources(
    config: Config,
    *,
    source: str,
    cache_directory: Path,
    reporter: Reporter,
    verify: bool = False,
    check: CheckContents | None = None,
    device: torch.device = CPU,
) -> FeatureSources:
    """Load the encoders and read the data of train and validation; see `prepare`."""
    if config.deterministic:
        use_deterministic_kernels(device)  # before this process computes anything there
    image_encoder, text_encoder, preprocessor = load_encoders(config, source)
    encoders = (image_encoder, text_encoder)
    data = _read_data(config, preprocessor, cache_directory, reporter, source=source, verify=verify)
    parts = encoder_parts(encoders, preprocessor, resolve_checkpoints(config), cache_directory, verify=verify)
    contents = describe_contents(data.dataset, data.digests, parts)
    if check is not None:
        check(data.dataset, contents)
    return FeatureSources(
        dataset=data.dataset,
        images=data.images,
        preprocessor=preprocessor,
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        entry_layers=frozenset(needed_entry_layers(config.space, sizes_of(*encoders))),
        uses_attention=config.space.architecture_class.reads_attention,
        contents=contents,
        device=device,
        allows_float16=config.recipe.precision != "float32",
        test_count=data.test_count,
    )


@dataclass(frozen=True)
class _Data:
    dataset: Dataset
    images: ImageSource
    digests: Mapping[str, str | None]
    test_count: int


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
    return _Data(Dataset(whole.class_names, splits), images, digests, len(whole.splits["test"]))


def check_encoders(config: Config, *, source: str) -> None:
    """Check that the encoders can be loaded and that the search space fits them.

    Args:
        config: The configuration of the search.
        source: The name of its file, for messages.

    Raises:
        ConfigError: If the space does not fit.
        EncoderError: If an encoder cannot be loaded.
    """
    load_encoders(config, source)


def load_encoders(config: Config, source: str) -> tuple[Encoder, Encoder, Preprocessor]:
    """Load and check the encoders and the preprocessor of their inputs.

    Args:
        config: The configuration of the search.
        source: The name of its file, for messages.

    Raises:
        ConfigError: If the space or the pretraining does not fit.
        EncoderError: If an encoder cannot be loaded.
    """
    checkpoints = resolve_checkpoints(config)
    has_heads = config.space.architecture_class.reads_class_texts
    image_encoder = load_encoder(checkpoints[0], "image", has_head=has_heads)
    text_encoder = load_encoder(checkpoints[1], "text", has_head=has_heads)
    if has_heads:
        check_common_space(image_encoder, text_encoder, checkpoints)
    check_space(config, source, image_encoder, text_encoder)
    preprocessor = Preprocessor(
        image_processor=load_image_processor(checkpoints[0]),
        tokenizer=load_tokenizer(checkpoints[1]),
        max_text_tokens=config.data.max_text_tokens or text_encoder.max_text_tokens,
        image_source=place_in(checkpoints[0], *PROCESSOR_FILES),
    )
    check_inputs(image_encoder, text_encoder, preprocessor, checkpoints)
    mask_vocabulary(config, preprocessor.tokenizer, source)
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


def read_class_texts(
    config: Config, source: str, text_encoder: Encoder, preprocessor: Preprocessor, class_names: Sequence[str]
) -> ClassTexts | None:
    """Return the token ids of the texts of the classes; None if the family does not read them, and for retrieval.

    Args:
        config: The configuration of the search.
        source: The name of its file, for messages.
        text_encoder: The text encoder.
        preprocessor: Its tokenizer.
        class_names: The labels in the order of the logits.

    Raises:
        ConfigError: If a text does not fit the encoder together with the learned words of the space.
    """
    if config.data.is_retrieval or not config.space.architecture_class.reads_class_texts:
        return None
    limit = text_encoder.max_text_tokens
    expected = f"at most {limit} tokens for each class, the positions of the text encoder"
    try:
        texts = tokenize_classes(config.data.class_prompts, class_names, preprocessor, max_tokens=limit)
    except LongClassText as error:
        raise ConfigError(source, [f"data.class_prompts: too long; expected {expected}, got {error}"]) from error
    longest = max(longest_class_text(texts, entry) for entry in config.space.largest_of_each_kind)
    if longest > limit:
        problem = (
            f"data.class_prompts: too long with the learned words of the search space; expected {expected}, got "
            f"{longest} of {texts.longest} and the words that replace or follow those before the name"
        )
        raise ConfigError(source, [problem])
    return texts


def needed_entry_layers(space: SearchSpace, sizes: EncoderSizes) -> list[EntryLayers]:
    """Return the encoder layers from which the architectures of a space, and its family's default, start to compute.

    Args:
        space: The search space.
        sizes: The sizes of the encoders.
    """
    candidates = [space.architecture_class.default(sizes)]
    candidates += [entry for layer in space.first_layers for entry in space.largest_of_each_kind_at(layer)]
    return list(dict.fromkeys(architecture.entry_layers(sizes) for architecture in candidates))


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
