"""The values of a search that its file leaves to the program, from the data, the encoders, the budget and the machine.

`resolve` is a pure function: equal files and equal facts give equal values. Only `budget.memory` and
`recipe.precision` follow the machine.

The constants are those of the demo: 5 epochs of 1,804 samples in batches of 32 are 280 steps.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.common.errors import ConfigError
from nas.common.precision import Precision
from nas.common.units import format_bytes
from nas.config.load import parse_config
from nas.config.schema import Config
from nas.config.section import AUTO
from nas.config.training_schema import steps_per_epoch
from nas.search.space import EncoderSizes, Gene, PlainValue

_TUNED_SAMPLES, _TUNED_STEPS, _TUNED_DECAY = 1_804, 280, 2.0
_MIN_STEPS, _MAX_STEPS = 200, 5_000
_FINE_TUNING_FRACTION = 0.4
_BATCH_SIZES = (8, 32)
_BATCHES_PER_EPOCH = 16
_LARGE_DATA, _LARGE_BATCH = 20_000, 64
_SUPERNET_TRAININGS = 5


@dataclass(frozen=True)
class Facts:
    """What automatic values follow from, besides the search file.

    Args:
        train_samples: The number of samples of the training split.
        sizes: The sizes of the encoders.
        memory_bytes: The memory that a search may use per device of this machine.
        encoders: The image and the text encoder that are used if the file names none.
        precision: The precision that the device of the workers is fast at.
    """

    train_samples: int
    sizes: EncoderSizes
    memory_bytes: int
    encoders: tuple[str, str]
    precision: Precision = "float32"


@dataclass(frozen=True)
class Choice:
    """A value that the program has chosen.

    Args:
        key: The dotted key.
        value: The value, as in a search file.
        reason: What it follows from, as a noun phrase.
    """

    key: str
    value: Any
    reason: str


def resolve(config: Config, facts: Facts, *, source: str) -> tuple[Config, list[Choice]]:
    """Replace the placeholders of a configuration.

    Args:
        config: The configuration, with or without placeholders.
        facts: What is known of data, encoders and machine.
        source: The name of the search file, for messages.

    Returns:
        The final configuration, and the values that were chosen, in the order of the sections.

    Raises:
        ConfigError: If a key contradicts the encoders or the data, or another key; names it.
    """
    if not config.automatic:
        return config, []
    values = config.as_dict()
    known = _Known(config, facts, values)
    choices = []
    for key, rule in (*_ENCODER_RULES.items(), *_space_rules(config).items(), *_RULES.items()):
        if key in config.automatic:
            section, _, name = key.partition(".")
            values[section][name], reason = rule(known)
            choices.append(Choice(key, values[section][name], reason))
    if "search.short_training_steps" in config.automatic:
        values["search"]["short_training_fraction"] = None
    if "supernet.steps" in config.automatic:
        values["supernet"]["epochs"] = None
    problems = _outside_encoders(config, facts)
    if problems:
        raise ConfigError(source, problems)
    final = parse_config(values, source=source, base_directory=Path.cwd())
    return final, choices


@dataclass(frozen=True)
class _Known:
    """The facts, and the values that were chosen before."""

    config: Config
    facts: Facts
    values: Mapping[str, Any]

    @property
    def trains_encoders(self) -> bool:
        return bool(self.config.space.architecture_class.trains)

    @property
    def full_steps(self) -> int:
        recipe = self.values["recipe"]
        if recipe["steps"] is not None:
            return int(recipe["steps"])
        return int(recipe["epochs"]) * steps_per_epoch(self.facts.train_samples, recipe["batch_size"])


def _batch_size(known: _Known) -> tuple[int, str]:
    samples = known.facts.train_samples
    reason = f"{samples:,} training samples"
    if samples >= _LARGE_DATA:
        return _LARGE_BATCH, reason
    smallest, largest = _BATCH_SIZES
    return min(max(1 << (max(samples // _BATCHES_PER_EPOCH, 1).bit_length() - 1), smallest), largest), reason


def _epochs(known: _Known) -> tuple[int, str]:
    samples = known.facts.train_samples
    aim = _TUNED_STEPS * math.sqrt(samples / _TUNED_SAMPLES)
    aim = min(max(aim, _MIN_STEPS), _MAX_STEPS) * (_FINE_TUNING_FRACTION if known.trains_encoders else 1.0)
    each = steps_per_epoch(samples, known.values["recipe"]["batch_size"])
    epochs = max(round(aim / each), 1)
    return epochs, f"{epochs * each:,} steps for {samples:,} training samples"


def _weight_decay(known: _Known) -> tuple[float, str]:
    # Decay in proportion to the root of 1 / steps, as Loshchilov and Hutter (ICLR 2019, appendix B.1) normalize it.
    decay = _TUNED_DECAY * math.sqrt(_TUNED_STEPS / known.full_steps)
    return float(f"{decay:.2g}"), f"{known.full_steps:,} steps"


def _supernet_steps(known: _Known) -> tuple[int, str]:
    supernet = known.values["supernet"]
    per_step = supernet["architectures_per_step"]
    if supernet["epochs"] is not None:
        samples = supernet["epochs"] * known.facts.train_samples
        steps = math.ceil(samples / (per_step * known.values["recipe"]["batch_size"]))
        return steps, f"supernet.epochs {supernet['epochs']:g} with {per_step} architectures per step"
    steps = math.ceil(_SUPERNET_TRAININGS * known.full_steps / per_step)
    return steps, f"{_SUPERNET_TRAININGS} full trainings with {per_step} architectures per step"


def _short_steps(known: _Known) -> tuple[int, str]:
    fraction = known.values["search"]["short_training_fraction"]
    return max(round(fraction * known.full_steps), 1), f"{fraction:.0%} of the {known.full_steps:,} of a full training"


_Rule = Callable[[_Known], tuple[Any, str]]
_ENCODER_RULES: Mapping[str, _Rule] = {
    "encoders.image": lambda known: (known.facts.encoders[0], "the default image encoder"),
    "encoders.text": lambda known: (known.facts.encoders[1], "the default text encoder"),
}
_RULES: Mapping[str, _Rule] = {
    "recipe.batch_size": _batch_size,
    "recipe.epochs": _epochs,
    "recipe.weight_decay": _weight_decay,
    "recipe.precision": lambda known: (known.facts.precision, "the device"),
    "supernet.steps": _supernet_steps,
    "search.short_training_steps": _short_steps,
    "budget.memory": lambda known: (f"{known.facts.memory_bytes}B", "the memory of this machine"),
}
"""The rules in the order in which they are applied: each reads the values that those before have chosen."""


def _space_rules(config: Config) -> dict[str, _Rule]:
    return {f"space.{gene.name}": _space_rule(gene) for gene in config.space.architecture_class.genes}


def _space_rule(gene: Gene) -> _Rule:
    def rule(known: _Known) -> tuple[list[PlainValue], str]:
        architecture_class, sizes = known.config.space.architecture_class, known.facts.sizes
        given = known.config.automatic[f"space.{gene.name}"]
        if given == AUTO:
            choices = [gene.plain(value) for value in architecture_class.default_choices(sizes)[gene.name]]
            if gene.names:
                return choices, f"what differs for this encoder, of {_listed(gene.names)}"
            return choices, f"around the default of {architecture_class.title}"
        count = architecture_class.num_layers(sizes)
        return [count + value for value in given], f"{_listed(given)} from the end of {count} layers"

    return rule


def _listed(values: Any) -> str:
    return ", ".join(map(str, values))


def _outside_encoders(config: Config, facts: Facts) -> list[str]:
    """Return the problem of layers that are counted from the end and do not exist."""
    layer_gene = config.space.architecture_class.layer_gene()
    count = config.space.architecture_class.num_layers(facts.sizes)
    if layer_gene is None:
        return []
    key = f"space.{layer_gene.name}"
    given = config.automatic.get(key, AUTO)
    if given == AUTO or given[0] >= -count:
        return []
    depths = f"the encoders have {facts.sizes.image_layers} and {facts.sizes.text_layers} layers"
    return [f"{key}: too small; expected at least -{count}, since {depths}, got {given[0]}"]


def choice_rows(choices: list[Choice]) -> list[tuple[str, str, str]]:
    """Return the rows of a table of choices: key, value and reason."""
    return [(choice.key, _text(choice), choice.reason) for choice in choices]


def _text(choice: Choice) -> str:
    if choice.key == "budget.memory":
        return format_bytes(int(choice.value.removesuffix("B")))
    return _listed(choice.value) if isinstance(choice.value, list) else str(choice.value)
