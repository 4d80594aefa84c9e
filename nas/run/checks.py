"""Check a configuration against its encoders and its memory budget before any long computation."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from nas.common.boundary import reading
from nas.common.errors import BudgetError, ConfigError, EncoderError
from nas.common.units import format_bytes, format_seconds
from nas.config.schema import Config
from nas.data.mask_vocabulary import MaskVocabulary
from nas.data.preprocessing import Preprocessor
from nas.memory.prediction import MemoryModel
from nas.models.encoders.base import Encoder
from nas.models.encoders.contrastive import head_of
from nas.models.encoders.folder_check import ErrorType
from nas.models.encoders.pretrained import PROCESSOR_FILES, TOKENIZER_FILES, place_in
from nas.models.fusion.base import sizes_of
from nas.run.phase_plan import MAX_SHARE, least_seconds
from nas.run.program_name import command_line
from nas.run.speed import TrainingSpeed
from nas.search.objectives import broken_prediction, memory_constraint

_HOUR = 3600.0
_REPEATED = 1.05
"""What a named least budget is longer than needed: a later measurement may find the machine a little slower."""


def image_shape(preprocessor: Preprocessor) -> tuple[int, ...]:
    """Return the shape of one preprocessed image, (channels, height, width)."""
    return tuple(preprocessor.pixel_values([Image.new("RGB", (64, 64))]).shape[1:])


def check_space(config: Config, source: str, image_encoder: Encoder, text_encoder: Encoder) -> None:
    """Check that the search space and the text length fit the encoders.

    Args:
        config: The configuration of the search.
        source: The name of its file, for messages.
        image_encoder: The image encoder.
        text_encoder: The text encoder.

    Raises:
        ConfigError: If they do not; names every key at once.
    """
    architecture_class = config.space.architecture_class
    sizes = sizes_of(image_encoder, text_encoder)
    num_layers = architecture_class.num_layers(sizes)
    depths = f"the encoders have {image_encoder.num_layers} and {text_encoder.num_layers} layers"
    positions = text_encoder.max_text_tokens
    problems = []
    if (config.data.max_text_tokens or 0) > positions:
        problems.append(
            f"data.max_text_tokens: too large; expected at most {positions}, the positions of the text encoder, got "
            f"{config.data.max_text_tokens}"
        )
    if config.space.num_layers not in (None, num_layers):
        problems.append(
            f"space.num_layers: wrong number; expected {num_layers}, since {depths}, got {config.space.num_layers}"
        )
    for name, largest in architecture_class.largest_values(sizes).items():
        given = config.space.choices[name][-1]
        if given > largest:
            problems.append(f"space.{name}: too large; expected at most {largest}, since {depths}, got {given}")
    if problems:
        raise ConfigError(source, problems)


def mask_vocabulary(config: Config, tokenizer: Any, source: str) -> MaskVocabulary | None:
    """Return the vocabulary of which a pretraining masks words; None if it masks none.

    Args:
        config: The configuration of the search.
        tokenizer: The tokenizer of the text encoder.
        source: The name of the search file, for messages.

    Raises:
        ConfigError: If the tokenizer has no mask token.
    """
    objectives = config.pretraining.objectives_of(config.space.architecture_class)
    if "masked_language" not in objectives:
        return None
    vocabulary = MaskVocabulary.of(tokenizer)
    if vocabulary is None:
        others = ", ".join(name for name in objectives if name != "masked_language")
        problem = (
            "pretraining.objectives: masked_language needs a tokenizer with a mask token; expected "
            f"{f'[{others}]' if others else 'other objectives'} or another text encoder, got that of "
            f"{config.encoders.text}, which has none"
        )
        raise ConfigError(source, [problem])
    return vocabulary


def check_lengths(config: Config, train_samples: int, *, source: str) -> None:
    """Check that a short training is shorter than a full one.

    Args:
        config: The configuration of the search, without placeholders.
        train_samples: The number of samples of the training split.
        source: The name of its file, for messages.

    Raises:
        ConfigError: If it is not.
    """
    short, full = config.search.short_training_steps, config.recipe.step_count(train_samples)
    if short >= full:
        recipe = config.recipe
        length = "recipe.steps" if recipe.epochs is None else f"recipe.epochs: {recipe.epochs}"
        problem = (
            f"search.short_training_steps: as long as a full training; expected fewer than its {full} steps ({length}, "
            f"{train_samples:,} training samples in batches of {recipe.batch_size}), got {short}"
        )
        raise ConfigError(source, [problem])


def check_time(config: Config, speed: TrainingSpeed, directory: Path, *, full_steps: int, spent_seconds: float) -> None:
    """Check that the time budget holds a full training of the default.

    Args:
        config: The configuration of the search, which has a time budget.
        speed: The measured speed.
        directory: The run directory.
        full_steps: The number of steps of a full training.
        spent_seconds: The time that the search has used before its phases of training.

    Raises:
        BudgetError: If it does not; names the least one that does.
    """
    needed, given = spent_seconds + least_seconds(config, speed, full_steps), config.budget.time_seconds
    assert given is not None
    if given >= needed:
        return
    title = config.space.architecture_class.title
    resume = command_line("resume", directory, rest=f"--budget {_rounded_up(needed)}")
    raise BudgetError(
        f"time budget {_shortest_text(given)}: holds no full training of the {title} default, which takes about "
        f"{_shortest_text(speed.full_seconds(full_steps))} ({full_steps:,} steps) and gets at most "
        f"{MAX_SHARE:.0%} of the time; expected at least {_rounded_up(needed)}: {resume}"
    )


def _rounded_up(seconds: float) -> str:
    """Return a duration that is a little longer, in whole seconds or, above an hour, minutes."""
    unit = 1 if seconds < _HOUR else 60
    return format_seconds(unit * math.ceil(seconds * _REPEATED / unit))


def _shortest_text(seconds: float) -> str:
    return format_seconds(seconds) if seconds >= 1 else f"{seconds:.2g}s"


def check_common_space(image_encoder: Encoder, text_encoder: Encoder, checkpoints: Sequence[str]) -> None:
    """Check that the projections of both encoders lead into one space.

    Args:
        image_encoder: The image encoder with its contrastive head.
        text_encoder: The text encoder, likewise.
        checkpoints: The names of the image and the text checkpoint, for messages.

    Raises:
        EncoderError: If they do not.
    """
    image, text = (head_of(encoder.config) for encoder in (image_encoder, text_encoder))
    if image != text:
        raise EncoderError(
            f"encoders: no common space; expected the same contrastive checkpoint as image and text encoder, got "
            f"{checkpoints[0]} ({image}) and {checkpoints[1]} ({text})"
        )


def check_inputs(
    image_encoder: Encoder,
    text_encoder: Encoder,
    preprocessor: Preprocessor,
    checkpoints: Sequence[str],
    error: ErrorType = EncoderError,
) -> None:
    """Check that the encoders accept the output of their image processor and tokenizer.

    Args:
        image_encoder: The image encoder, on any device, also on meta.
        text_encoder: The text encoder.
        preprocessor: The image processor and the tokenizer.
        checkpoints: The names of the image and the text checkpoint, for messages.
        error: The type of the error.

    Raises:
        NasError: If one of them does not.
    """
    where = place_in(checkpoints[0], *PROCESSOR_FILES)
    shape = image_shape(preprocessor)
    device = next(image_encoder.parameters()).device
    with (
        reading(
            where,
            expected="the size in config.json",
            error=error,
            problem=f"the image processor yields images of {' x '.join(map(str, shape))}, which the model rejects",
        ),
        torch.inference_mode(),
    ):
        image_encoder.embed(torch.zeros(1, *shape, device=device))
    where = place_in(checkpoints[1], *TOKENIZER_FILES)
    tokenizer, known = preprocessor.tokenizer, text_encoder.config.vocab_size
    with reading(where, expected="a complete tokenizer", error=error, problem="the tokenizer cannot be used"):
        ids, special = tokenizer.get_vocab().values(), tokenizer.num_special_tokens_to_add()
    if max(ids) >= known or min(ids) < 0:
        raise error(
            f"{where}: the tokenizer has the token ids {min(ids)} to {max(ids)}; expected 0 to {known - 1}, the token "
            "embeddings of the model, so that tokenizer and model belong together (model.resize_token_embeddings)"
        )
    if preprocessor.max_text_tokens < special:
        raise error(
            f"{where}: the tokenizer adds {special} special tokens to every text; expected max_text_tokens of at least "
            f"{special}, got {preprocessor.max_text_tokens}"
        )


def check_memory(config: Config, memory: MemoryModel) -> None:
    """Check that at least the smallest architecture fits the budget and the constraints.

    Args:
        config: The configuration of the search.
        memory: The memory predictions of its architectures.

    Raises:
        BudgetError: If it does not.
    """
    smallest, budget = config.space.smallest, config.budget.memory_bytes
    broken = broken_prediction(config.search.constraints, memory, smallest)
    if broken is not None:
        constraint, value = broken
        raise BudgetError(
            f"search.constraints: {constraint}: not even the smallest architecture ({smallest}) meets it; got "
            f"{value:.17g}"
        )
    needed = memory.predict(smallest).peak_bytes
    named = f"memory budget {format_bytes(budget)}"
    bound = memory_constraint(config.search.constraints)
    if bound is not None and bound.bound < budget:
        budget, named = int(bound.bound), f"search.constraints: {bound}"
    if needed <= budget:
        return
    accumulates = config.budget.oversized == "accumulate"
    if accumulates:
        needed = memory.predict(smallest, micro_batches=config.recipe.batch_size).peak_bytes
        if needed <= budget:
            return
    hint = "" if accumulates else "; budget.oversized: accumulate needs less"
    raise BudgetError(
        f"{named}: not even the smallest architecture ({smallest}) fits; its training needs "
        f"{format_bytes(needed)}{hint}",
        needed_bytes=needed,
    )
