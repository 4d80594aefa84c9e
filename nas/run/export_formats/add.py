"""Add files of other formats to the folder of an exported model, each checked against the model before it is kept."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from nas.common.boundary import reason_of
from nas.common.errors import ExportError
from nas.common.files import sync_directory
from nas.config.data_schema import DataConfig
from nas.models.model_seals import DESCRIPTION
from nas.run.checks import image_shape
from nas.run.export_formats.formats import FORMATS, ExportFormat, RunBatch, check_packages
from nas.run.export_formats.graph import InputBatch, LogitsModel, trace
from nas.run.export_formats.samples import LARGE_BATCH, CheckedSamples
from nas.run.exported_model import ExportedModel, open_exported
from nas.run.latency import shortest_seconds
from nas.run.model_card import describe_formats
from nas.run.model_folder import UNFINISHED

TOLERANCE = 1e-4
"""The largest difference of a logit; of logits above 1, that share of the largest one."""


def add_formats(
    folder: Path,
    names: Sequence[str],
    data: DataConfig | None,
    on_note: Callable[[str], None],
    split: str = "validation",
) -> None:
    """Write an exported model in other formats, as further files of its folder.

    Args:
        folder: The folder of the exported model.
        names: The names of the formats.
        data: The data set that the files are checked with; None to check them with random samples.
        on_note: The receiver of a line about each file.
        split: The name of the split that is used, or `ALL`.

    Raises:
        ArgumentError: If a package is not installed.
        DataError: If the split cannot be used.
        ExportError: If the folder holds no exported model, or a file differs from it or cannot be written.
    """
    check_packages(names)
    exported = open_exported(folder)
    if exported.is_retrieval:
        raise ExportError(f"{folder}: holds a model for retrieval; expected a classifier for {', '.join(names)}")
    samples = CheckedSamples(exported, data, split)
    shape, longest = image_shape(exported.preprocessor), exported.preprocessor.max_text_tokens
    program, facts = trace(exported.model, shape, longest), _facts(exported)
    written = {}
    for name in names:
        entry = FORMATS[name]
        try:
            written[name] = _write(folder, entry, program, facts, samples, exported)
        except OSError as error:
            raise ExportError(f"{folder / entry.file}: cannot be written: {reason_of(error)}") from error
        found = written[name]
        on_note(
            f"{entry.title}: {folder / entry.file} (largest difference of a logit {found['largest_difference']:.1e}, "
            f"{found['checked_with']})"
        )
    if (folder / DESCRIPTION).exists():  # a model that was saved elsewhere has none
        describe_formats(folder, written)


def _facts(exported: ExportedModel) -> dict[str, str]:
    """Return what a program needs to use the file alone, as texts."""
    config = exported.model.config
    return {
        "class_names": json.dumps(exported.class_names),
        "problem_type": str(config.problem_type),
        "threshold": str(config.threshold),
        "max_text_tokens": str(config.max_text_tokens),
    }


def _write(
    folder: Path,
    entry: ExportFormat,
    program: ExportedProgram,
    facts: Mapping[str, str],
    samples: CheckedSamples,
    exported: ExportedModel,
) -> dict[str, Any]:
    """Write a file, check it, move it into the folder, and return facts about it."""
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder) as temporary:
        path = Path(temporary, entry.file)
        entry.write(program, facts, path)
        run, model = entry.open(path), _runner(exported)
        difference = largest_difference(run, model, samples, entry.file)
        batch = next(samples.batches())
        seconds = _seconds(run, batch), _seconds(model, batch)
        for part in sorted(Path(temporary).iterdir(), key=lambda part: part == path):  # weights before the graph
            os.replace(part, folder / part.name)
        sync_directory(folder)
    return {
        "file": entry.file,
        "checked_with": samples.source,
        "largest_difference": difference,
        "threads": torch.get_num_threads(),
        "seconds": seconds[0],
        "pytorch_seconds": seconds[1],
    }


def _runner(exported: ExportedModel) -> RunBatch:
    model = LogitsModel(exported.model).eval()

    @torch.inference_mode()
    def run(batch: InputBatch) -> Tensor:
        logits: Tensor = model(*batch)
        return logits

    return run


def largest_difference(run: RunBatch, model: RunBatch, samples: CheckedSamples, name: str) -> float:
    """Return the largest difference between the logits of a file and those of the model.

    Args:
        run: Runs the file.
        model: Runs the model.
        samples: The samples.
        name: The name of the file, for messages.

    Raises:
        ExportError: If it is above `TOLERANCE`.
    """
    largest = 0.0
    for batch in samples.batches():
        got, expected = run(batch), model(batch)
        difference = float((got - expected).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):  # not a number is an error, too
            raise ExportError(
                f"{name}: differs from the model; expected logits equal to {TOLERANCE:g}, got a difference of "
                f"{difference:.2g} ({samples.source}); the file was not kept"
            )
        largest = max(largest, difference)
    return largest


def _seconds(run: RunBatch, batch: InputBatch) -> dict[str, float]:
    """Return the seconds for one sample and for a batch, by their number."""
    sizes = sorted({1, min(LARGE_BATCH, len(batch.input_ids))})
    parts = {size: InputBatch(*(entry[:size] for entry in batch)) for size in sizes}
    return {str(size): shortest_seconds(partial(run, part)) for size, part in parts.items()}
