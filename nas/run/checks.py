"""Check a configuration against its encoders and its memory budget before any long computation."""

from collections.abc import Sequence

import torch
from PIL import Image

from nas.common.errors import BudgetError, ConfigError, EncoderError
from nas.common.units import format_bytes
from nas.config.schema import Config
from nas.data.preprocessing import Preprocessor
from nas.memory.prediction import MemoryModel
from nas.models.encoders.base import Encoder
from nas.models.fusion.base import sizes_of
from nas.search.objectives import broken_prediction, memory_constraint


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
    layer_gene = architecture_class.layer_gene()
    num_layers = architecture_class.num_layers(sizes_of(image_encoder, text_encoder))
    depths = f"the encoders have {image_encoder.num_layers} and {text_encoder.num_layers} layers"
    latest, positions = config.space.first_layers[-1], text_encoder.max_text_tokens
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
    if layer_gene is not None and latest >= num_layers:
        problems.append(
            f"space.{layer_gene.name}: too large; expected at most {num_layers - 1}, since {depths}, got {latest}"
        )
    if problems:
        raise ConfigError(source, problems)


def check_inputs(
    image_encoder: Encoder, text_encoder: Encoder, preprocessor: Preprocessor, checkpoints: Sequence[str]
) -> None:
    """Check that the encoders accept the output of their image processor and tokenizer.

    Args:
        image_encoder: The image encoder.
        text_encoder: The text encoder.
        preprocessor: The image processor and the tokenizer.
        checkpoints: The names of the image and the text checkpoint, for messages.

    Raises:
        EncoderError: If one of them does not.
    """
    shape = image_shape(preprocessor)
    try:
        with torch.inference_mode():
            image_encoder.embed(torch.zeros(1, *shape))
    except (ValueError, RuntimeError) as error:
        raise EncoderError(
            f"encoder {checkpoints[0]!r}: its image processor produces images of {' x '.join(map(str, shape))}, which "
            f"the model rejects ({error}); expected the size in preprocessor_config.json to match config.json"
        ) from error
    largest, known = max(preprocessor.tokenizer.get_vocab().values()), text_encoder.config.vocab_size
    if largest >= known:
        raise EncoderError(
            f"encoder {checkpoints[1]!r}: its tokenizer has token id {largest}, but the model has {known} token "
            "embeddings; expected a tokenizer and a model that belong together (model.resize_token_embeddings)"
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
        f"{format_bytes(needed)}{hint}"
    )
