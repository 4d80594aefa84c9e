"""How a comparison trains and tests: on all classes, or from base classes to novel ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nas.common.errors import ArgumentError, ConfigError
from nas.config.data_schema import DataConfig
from nas.config.schema import Config
from nas.data.dataset import read_dataset
from nas.run.model_parts import ModelParts
from nas.run.prepare import SearchContext
from nas.run.sources import read_class_texts
from nas.search.space.family_registry import FAMILIES, load_architecture_class


@dataclass(frozen=True)
class Protocol:
    """How a comparison trains and tests.

    Args:
        is_base_to_novel: Whether models are trained on the base classes, and tested on these and on the novel ones.
        note: A line below the table; None for that of the search file.
    """

    is_base_to_novel: bool = False
    note: str | None = None


ALL_CLASSES = Protocol()
"""The protocol of a comparison on all classes."""


def novel_data(data: DataConfig) -> DataConfig:
    """Return the data set with its novel classes in place of the base classes."""
    return data.replace(classes="novel")


def with_base_classes(config: Config, source: Path) -> Config:
    """Return the configuration of a comparison on the base classes.

    Args:
        config: The configuration of the search file.
        source: The file, for messages.

    Raises:
        ConfigError: If the file chooses classes itself.
        DataError: If the data cannot be used, or have no novel classes to test on.
    """
    if config.data.classes != "all":
        problem = f"data.classes: not allowed with this protocol, which divides the classes; got {config.data.classes}"
        raise ConfigError(str(source), [problem])
    # Before anything is trained.
    read_dataset(novel_data(config.data), ("test",), compares_images=False)
    return config.replace(data=config.data.replace(classes="base"))


def base_to_novel_entries(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the entries of a comparison from base to novel classes: families whose logits follow the class texts.

    Args:
        names: The entries that are asked for; None for all.

    Raises:
        ArgumentError: If a family cannot classify classes that it was not trained with.
    """
    able = [name for name in FAMILIES if load_architecture_class(name).reads_class_texts]
    wrong = [name for name in names or () if name not in able]
    if wrong:
        raise ArgumentError(
            f"--protocol base_to_novel: {', '.join(wrong)} cannot classify classes without training samples; expected "
            f"families that read the texts of the classes: {', '.join(able)}"
        )
    return tuple(able if names is None else names)


def novel_parts(config: Config, source: Path, prepared: SearchContext) -> ModelParts:
    """Return the parts of a model that classifies the novel classes: their names and texts replace the others.

    Args:
        config: The configuration of an entry on the base classes.
        source: The search file, for messages.
        prepared: Its encoders.

    Raises:
        ConfigError: If a text does not fit the text encoder.
        DataError: If the data cannot be used.
    """
    names = read_dataset(novel_data(config.data), ("test",), compares_images=False).class_names
    texts = read_class_texts(config, str(source), prepared.text_encoder, prepared.preprocessor, names)
    return replace(ModelParts.of(prepared), class_names=names, class_texts=texts)
