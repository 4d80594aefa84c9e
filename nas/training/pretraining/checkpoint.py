"""The file of an interrupted pretraining, and of a finished one whose model is still trained."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from nas.common import torch_files
from nas.models.fusion.base import FusionModel
from nas.training.pretraining.step import Pretrainer


class PretrainingCheckpoint:
    """File with the weights, the optimizer state, the momentum model, the queue and the step of a pretraining.

    A file that is damaged or belongs to another training counts as missing: a pretraining can always start again.

    Args:
        path: Path of the file; its folder is created, but none above it.
        facts: What the result of the pretraining depends on.
    """

    def __init__(self, path: Path, facts: Mapping[str, str]) -> None:
        self._path = path
        self._facts = dict(facts)

    def save(self, step: int, pretrainer: Pretrainer) -> None:
        """Replace the file by the present state.

        Args:
            step: The number of finished steps.
            pretrainer: The pretraining.

        Raises:
            TrainingError: If the loss of a step was not finite.
            OSError: If the file cannot be written; the previous one remains untouched.
        """
        pretrainer.losses.finish()
        self._write({"step": step, "state": pretrainer.state()})

    def restore(self, pretrainer: Pretrainer) -> int:
        """Load the state from the file, if there is one; return the number of finished steps.

        Args:
            pretrainer: The pretraining, as it is before its first step.
        """
        content = self._read()
        if content is None or "state" not in content:
            return 0
        pretrainer.load(content["state"])
        return int(content["step"])

    def finish(self, model: FusionModel) -> None:
        """Replace the file by the pretrained weights, from which the training of the classifier starts.

        Args:
            model: The pretrained model.

        Raises:
            OSError: If the file cannot be written.
        """
        self._write({"weights": model.state_dict()})

    def load_finished(self, model: FusionModel) -> bool:
        """Load the pretrained weights, if the pretraining has finished; return whether it has.

        Args:
            model: The model.
        """
        content = self._read()
        if content is None or "weights" not in content:
            return False
        model.load_state_dict(content["weights"])
        return True

    def delete(self) -> None:
        """Delete the file, if there is one."""
        self._path.unlink(missing_ok=True)

    def _write(self, content: Mapping[str, Any]) -> None:
        self._path.parent.mkdir(exist_ok=True)
        torch_files.save(self._path, {"facts": self._facts, **content})

    def _read(self) -> dict[str, Any] | None:
        try:
            with zipfile.ZipFile(self._path) as archive:
                if archive.testzip() is not None:  # torch writes checksums but does not verify them
                    return None
            content: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
        except (OSError, zipfile.BadZipFile, RuntimeError, UnpicklingError, EOFError):
            return None
        return content if content.get("facts") == self._facts else None
