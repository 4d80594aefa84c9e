"""Encoder families by `model_type`: where their classes are found, without importing torch or transformers.

The families of this package are registered in `register.py`, those of other packages through the entry-point group
`pmf_nas.encoders`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from nas.common.registry import Registry, load_object

if TYPE_CHECKING:
    from nas.models.encoders.base import Encoder


@dataclass(frozen=True)
class EncoderFamily:
    """The classes of one encoder family.

    Args:
        modality: "image" or "text".
        model: The model class of transformers, as `package.module:Name`.
        encoder: The subclass of `Encoder` that wraps such a model, as `package.module:Name`.
        options: Keyword arguments of the model class.
        activation: The key of the configuration that names the activation of the feed-forward block.
    """

    modality: str
    model: str
    encoder: str
    options: Mapping[str, Any] = field(default_factory=dict)
    activation: str = "hidden_act"

    def load_model_class(self) -> Any:
        """Import the model class of transformers."""
        return load_object(self.model)

    def load_encoder_class(self) -> "Callable[[Any], Encoder]":
        """Import the subclass of `Encoder`, whose constructor takes the model."""
        return cast("Callable[[Any], Encoder]", load_object(self.encoder))


@dataclass(frozen=True)
class DualEncoder:
    """A `model_type` whose checkpoints hold two encoders.

    Args:
        configs: The attribute of the configuration that describes the encoder of each modality, as if it were alone.
        reasons: Why the encoder of a modality that is left out is not supported.
    """

    configs: Mapping[str, str]
    reasons: Mapping[str, str] = field(default_factory=dict)


ENCODERS: Registry[EncoderFamily | DualEncoder] = Registry(
    "encoder family", builtins="nas.models.encoders.register:register", entry_points="pmf_nas.encoders"
)


def register_encoder(
    model_type: str,
    *,
    modality: str,
    model: str,
    encoder: str,
    options: Mapping[str, Any] | None = None,
    activation: str = "hidden_act",
) -> None:
    """Register an encoder family.

    Args:
        model_type: The `model_type` in the configuration of its checkpoints.
        modality: "image" or "text".
        model: The model class of transformers, as `package.module:Name`.
        encoder: The subclass of `Encoder` that wraps such a model, as `package.module:Name`.
        options: Keyword arguments of the model class.
        activation: The key of the configuration that names the activation of the feed-forward block.

    Raises:
        ExtensionError: If the name is taken.
    """
    ENCODERS.register(model_type, EncoderFamily(modality, model, encoder, options or {}, activation))


def register_dual_encoder(
    model_type: str, configs: Mapping[str, str], reasons: Mapping[str, str] | None = None
) -> None:
    """Register a `model_type` whose checkpoints hold two encoders.

    Args:
        model_type: The `model_type` in the configuration of its checkpoints.
        configs: The attribute of the configuration that describes the encoder of each modality. The `model_type` found
            there must be registered as an encoder family.
        reasons: Why the encoder of a modality that is left out is not supported, for messages.

    Raises:
        ExtensionError: If the name is taken.
    """
    ENCODERS.register(model_type, DualEncoder(configs, reasons or {}))


def encoder_family(model_type: str) -> EncoderFamily:
    """Return a family by its `model_type`.

    Raises:
        KeyError: If the type is not registered, or its checkpoints hold two encoders.
    """
    entry = ENCODERS[model_type]
    if isinstance(entry, DualEncoder):
        raise KeyError(f"{model_type!r} holds two encoders; expected the model_type of one of them")
    return entry


def supported_model_types(modality: str) -> list[str]:
    """Return the `model_type` of all checkpoints that hold an encoder of a modality, sorted."""
    entries = ((name, ENCODERS[name]) for name in ENCODERS)
    return sorted(
        name
        for name, entry in entries
        if (modality in entry.configs if isinstance(entry, DualEncoder) else entry.modality == modality)
    )
