"""Everything that a worker process needs before it starts: configuration, files, environment variables."""

import os
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedConfig

from nas.common.fast_imports import allocator_environment
from nas.config.schema import Config
from nas.data.mask_vocabulary import MaskVocabulary
from nas.models.class_texts import ClassTexts
from nas.search.keys import ModelKey, SpeedKey, TeacherKey
from nas.search.trial import Stage

FROZEN_FILES = ("image_encoder.pt", "text_encoder.pt")
"""Files of a run directory that hold the frozen weights of the fusing layers."""

SUPERNET_FILE = "supernet.safetensors"
_CHECKPOINT_FILE = "supernet_checkpoint.pt"


def full_weights_path(run_directory: Path, key: ModelKey) -> Path:
    """Return the path of the weights of a full training."""
    return trained_weights_path(run_directory, key, "full")


def trained_weights_path(run_directory: Path, key: ModelKey, stage: Stage) -> Path:
    """Return the path of the weights of a short or full training."""
    return run_directory / stage / f"{key.name}.safetensors"


def kept_logits_path(run_directory: Path, key: ModelKey) -> Path:
    """Return the path of the validation logits of a full training."""
    return run_directory / "logits" / f"{key.name}.safetensors"


def teacher_path(run_directory: Path, digest: str) -> Path:
    """Return the path of the logits of an ensemble for the training samples, from which a model learns."""
    return run_directory / "teacher" / f"{TeacherKey(digest).name}.safetensors"


@dataclass(frozen=True)
class WorkerSetup:
    """Everything that a worker receives to start its work: small, and the same for all workers of a search.

    Args:
        config: The configuration of the search.
        image_config: The configuration of the image encoder.
        text_config: The configuration of the text encoder.
        first_layers: The first layers of the image and the text encoder that workers compute.
        feature_directory: Path of a complete feature store.
        run_directory: Path of the directory with the frozen weights, the supernet and the weights of full trainings.
        thread_count: The number of threads of one worker.
        device: The device of the tensors: `cpu`, or `cuda:0` for the one GPU that a worker sees.
        worker_count: The number of workers of this machine, which share the memory of the host.
        class_texts: The texts of the classes, for a family that reads them.
        vocabulary: The vocabulary of the text encoder, for masked language modelling; None if nothing is masked.
    """

    config: Config
    image_config: PreTrainedConfig
    text_config: PreTrainedConfig
    first_layers: tuple[int, int]
    feature_directory: Path
    run_directory: Path
    thread_count: int
    device: str = "cpu"
    worker_count: int = 1
    class_texts: ClassTexts | None = None
    vocabulary: MaskVocabulary | None = None

    @property
    def encoder_configs(self) -> tuple[PreTrainedConfig, PreTrainedConfig]:
        """The configurations of the image and the text encoder."""
        return self.image_config, self.text_config

    @property
    def frozen_paths(self) -> tuple[Path, Path]:
        """Paths of the weights of the image and the text encoder, from their `first_layers` on."""
        image, text = FROZEN_FILES
        return self.run_directory / image, self.run_directory / text

    @property
    def supernet_path(self) -> Path:
        return self.run_directory / SUPERNET_FILE

    @property
    def checkpoint_path(self) -> Path:
        """Path of the checkpoint that exists while the supernet is trained."""
        return self.run_directory / _CHECKPOINT_FILE

    def weights_path(self, key: ModelKey, stage: Stage = "full") -> Path:
        """Return the path of the weights of a short or full training."""
        return trained_weights_path(self.run_directory, key, stage)

    def pretraining_path(self, key: ModelKey) -> Path:
        """Return the path of the checkpoint that exists while a model is pretrained and then trained."""
        return self.run_directory / "pretraining" / f"{key.name}.pt"

    def logits_path(self, key: ModelKey) -> Path:
        """Return the path of the validation logits of a full training."""
        return kept_logits_path(self.run_directory, key)

    def training_files(self, key: ModelKey, stage: Stage) -> list[Path]:
        """Return the paths of the files that a short or full training has written here."""
        if isinstance(key, SpeedKey):
            return []
        if isinstance(key, TeacherKey):
            return [teacher_path(self.run_directory, key.digest)]
        logits = self.logits_path(key)
        return [self.weights_path(key, stage), *([logits] if stage == "full" and logits.exists() else [])]


def process_environment(thread_count: int) -> dict[str, str]:
    """Return the environment variables that a worker process must have when it starts.

    Args:
        thread_count: The number of threads of its computations.
    """
    tunables = [entry for entry in os.environ.get("GLIBC_TUNABLES", "").split(":") if entry]
    return {
        "OMP_NUM_THREADS": str(thread_count),
        "MKL_NUM_THREADS": str(thread_count),
        # One arena for all threads: between jobs, the C library returns the memory of no other arena to the system.
        "MALLOC_ARENA_MAX": "1",
        # With little memory, large tensors are paged in again and again; large pages make that cheaper.
        "GLIBC_TUNABLES": ":".join([*tunables, "glibc.malloc.hugetlb=1"]),
        # Each cached program takes 0.6 MB; the default is 1,024 of them.
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
        **allocator_environment(),
    }
