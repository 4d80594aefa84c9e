"""Load the parts of a checkpoint through transformers: the one place that opens what a folder or a hub name holds.

Nothing that a checkpoint brings is run: no custom code, no pickled objects, no question on standard input. A local
folder is checked before transformers opens it.
"""

import functools
import socket
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from huggingface_hub import constants
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from nas.common.boundary import reading
from nas.common.errors import EncoderError, ExportError
from nas.models.encoders.folder_check import ErrorType, check_folder
from nas.models.encoders.processor_check import check_image_processor

T = TypeVar("T")

_EXPECTED = "a local checkpoint directory, package:NAME/FOLDER, or a Hugging Face hub name"
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@functools.cache
def silence_transformers() -> None:
    """Limit transformers' log to errors and turn its progress bars off; called before anything is loaded.

    Fusion leaves out the heads of a checkpoint on purpose; transformers would print a table of them for each load.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def place_in(checkpoint: str, *names: str) -> str:
    """Return the subject of a message: the first of some files that a local folder holds, or the part of a hub name.

    Args:
        checkpoint: A local folder, or a hub name.
        names: Names of files.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        return str(next((folder / name for name in names if (folder / name).exists()), folder / names[0]))
    return f"encoder {checkpoint!r}: {names[0]}"


def load_config(checkpoint: str, error: ErrorType = EncoderError) -> PreTrainedConfig:
    """Load the configuration of a checkpoint.

    Raises:
        NasError: If it cannot be found or read, or the folder is refused (see `check_folder`).
    """
    where = place_in(checkpoint, "config.json")
    config: PreTrainedConfig = _load(AutoConfig.from_pretrained, checkpoint, where, "configuration", error)
    return config


def config_of(values: Mapping[str, Any]) -> PreTrainedConfig:
    """Return the configuration that a dictionary with its `model_type` describes."""
    config: PreTrainedConfig = AutoConfig.for_model(**{**values, "attn_implementation": "sdpa"})
    return config


def load_model(
    model_class: Any,
    checkpoint: str,
    config: PreTrainedConfig,
    where: str,
    error: ErrorType = EncoderError,
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """Load the weights of a checkpoint into a model of transformers.

    Args:
        model_class: The class of the model.
        checkpoint: A local folder, or a hub name.
        config: The configuration of the model.
        where: The file of the weights, for messages.
        error: The type of the error.
        options: Further options of `from_pretrained`.

    Returns:
        The model, and transformers' report of missing, unexpected and mismatched weights.

    Raises:
        NasError: If the weights cannot be found or read.
    """

    def load(name: str, **safe: Any) -> tuple[Any, dict[str, Any]]:
        loaded: tuple[Any, dict[str, Any]] = model_class.from_pretrained(
            name,
            config=config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            weights_only=True,
            **options,
            **safe,
        )
        return loaded

    return _load(load, checkpoint, where, "weights", error)


def load_image_processor(checkpoint: str, error: ErrorType = EncoderError) -> Any:
    """Load the image processor of a checkpoint, with the Pillow backend (torchvision is not needed), and check it.

    Raises:
        NasError: If it cannot be found or read, or does not turn all pictures into numbers of one shape.
    """
    where = place_in(checkpoint, *PROCESSOR_FILES)
    processor = _load(
        lambda name, **options: AutoImageProcessor.from_pretrained(name, backend="pil", **options),
        checkpoint,
        where,
        "image processor",
        error,
    )
    check_image_processor(processor, where, error)
    return processor


def load_tokenizer(checkpoint: str, error: ErrorType = EncoderError) -> Any:
    """Load the tokenizer of a checkpoint; it pads after the tokens, which readout and features rely on.

    Raises:
        NasError: If it cannot be found or read, or has no vocabulary.
    """
    where = place_in(checkpoint, *TOKENIZER_FILES)
    tokenizer = _load(
        lambda name, **options: AutoTokenizer.from_pretrained(name, padding_side="right", **options),
        checkpoint,
        where,
        "tokenizer",
        error,
    )
    # If the files are missing, transformers makes a tokenizer without a vocabulary.
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise error(
            f"{where}: the tokenizer has no vocabulary; expected the tokenizer's "
            "files next to config.json (tokenizer.json, or the vocabulary), as written by tokenizer.save_pretrained"
        )
    # How it was loaded would be saved with it; these are the values after loading from a folder by its path.
    tokenizer.init_kwargs |= {"is_local": True, "local_files_only": False}
    return tokenizer


def load_processor_parts(name: Any, **options: Any) -> tuple[Any, Any]:
    """Load the image processor and the tokenizer of an exported model, for transformers' own `from_pretrained`.

    Args:
        name: The folder of the model, or its name on the hub.
        options: Options of transformers' `from_pretrained`; custom code stays refused.

    Raises:
        ExportError: If the folder names custom code, or holds damaged files.
        OSError: If there is no such model, as transformers raises it.
    """
    silence_transformers()
    folder = Path(str(name), options.get("subfolder") or "")
    if folder.is_dir():
        check_folder(folder, ExportError)
    options = {**options, "trust_remote_code": False}
    # The Pillow backend of the training; the other one resizes slightly differently.
    image_processor = AutoImageProcessor.from_pretrained(name, backend="pil", **options)
    return image_processor, AutoTokenizer.from_pretrained(name, padding_side="right", **options)


def check_hub() -> None:
    """Check that the name of the hub can be resolved: its client would retry for half a minute before it says so.

    Raises:
        OSError: If the machine has no network, or none that knows the hub.
    """
    host = urlsplit(constants.ENDPOINT).hostname
    if host is None or constants.HF_HUB_OFFLINE or "https" in urllib.request.getproxies():
        return  # there is no host to resolve, or it is not resolved here
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise OSError(f"{host} cannot be reached, and the name is not cached: {error}") from error


def _load(load: Callable[..., T], checkpoint: str, where: str, what: str, error: ErrorType) -> T:
    """Load one part of a checkpoint, and turn any failure into one error."""
    silence_transformers()
    is_local = Path(checkpoint).is_dir()
    if is_local:
        check_folder(Path(checkpoint), error)
    expected = "a part of a complete checkpoint, as save_pretrained writes it" if is_local else _EXPECTED
    with reading(where, expected=expected, error=error, problem=f"the {what} cannot be loaded"):
        # From disk or the hub's cache; from the network only for a hub name that is not cached.
        try:
            return load(checkpoint, local_files_only=True, trust_remote_code=False)
        except OSError:
            if is_local:
                raise
            check_hub()
            return load(checkpoint, trust_remote_code=False)
