"""Digests of encoders: equal digests mean equal outputs, whatever the files are called and wherever they are."""

import hashlib
import json
from pathlib import Path

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from transformers import PreTrainedConfig

from nas.models.encoders.base import Encoder


def config_digest(config: PreTrainedConfig) -> str:
    """Return a digest of the configuration of an encoder, without the version that wrote it.

    Args:
        config: The configuration.
    """
    values = config.to_diff_dict()
    values.pop("transformers_version", None)
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def weights_digest(encoder: Encoder) -> str:
    """Return a digest of all weights of an encoder, whose computation takes a second per gigabyte.

    Args:
        encoder: The complete encoder.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def checkpoint_folder(checkpoint: str) -> Path | None:
    """Return the folder of the files of a checkpoint; None if it is not known.

    Args:
        checkpoint: The result of `resolve_checkpoint`.
    """
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    cached = try_to_load_from_cache(checkpoint, "config.json")
    return Path(cached).parent if isinstance(cached, str) else None


def checkpoint_stamp(folder: Path) -> tuple[str, int]:
    """Return a string that changes with the size or the modification time of any file of a checkpoint.

    Args:
        folder: The folder of the checkpoint.

    Returns:
        The string, and the latest modification time in nanoseconds.

    Raises:
        OSError: If the folder cannot be read.
    """
    facts, latest = [transformers.__version__], 0
    for path in sorted(folder.iterdir()):
        status = path.stat()
        facts.append(f"{path.name} {status.st_size} {status.st_mtime_ns}")
        latest = max(latest, status.st_mtime_ns)
    return hashlib.sha256("\n".join(facts).encode("utf-8", "surrogateescape")).hexdigest(), latest


def weight_files(checkpoint: str) -> str:
    """Return the names of the files of weights of a checkpoint, for messages.

    Args:
        checkpoint: The result of `resolve_checkpoint`.
    """
    folder = checkpoint_folder(checkpoint)
    suffixes = (".safetensors", ".bin")
    names = [] if folder is None else sorted(path.name for path in folder.iterdir() if path.suffix in suffixes)
    return ", ".join(names) or "the file of weights"
