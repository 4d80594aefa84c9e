"""A format that is written and checked in no time, in place of the real ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nas.run.export_formats import add
from nas.run.export_formats.formats import ExportFormat, RunBatch
from nas.run.export_formats.graph import InputBatch, LogitsModel


class FakeFormat:
    """Writes a file of a few bytes, which computes what the model does, plus an error.

    Args:
        monkeypatch: Replaces the formats.
        error: What is added to the logits.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: float = 0.0) -> None:
        self.error = error
        self.batches: list[InputBatch] = []
        self._model: Any = None
        entry = ExportFormat("ONNX", "model.onnx", (), self._write, self._open)
        monkeypatch.setattr(add, "FORMATS", {"onnx": entry})
        monkeypatch.setattr(add, "check_packages", lambda names: None)
        monkeypatch.setattr(add, "trace", self._trace)
        monkeypatch.setattr(add, "shortest_seconds", lambda call: 0.5)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model that was traced."""
        dtype: torch.dtype = self._model.model.dtype
        return dtype

    def _trace(self, model: Any, shape: tuple[int, ...], longest: int) -> Any:
        self._model = LogitsModel(model)

    def _write(self, program: Any, facts: Mapping[str, str], path: Path) -> None:
        path.write_bytes(b"graph")
        path.with_name("model.onnx.data").write_bytes(b"weights")

    def _open(self, path: Path) -> RunBatch:
        assert path.read_bytes() == b"graph"

        def run(batch: InputBatch) -> Tensor:
            self.batches.append(batch)
            with torch.inference_mode():
                logits: Tensor = self._model(*batch)
            return logits + self.error

        return run
