"""The formats: how a graph is written to a file, and how the file is run again to check it."""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from nas.common.errors import ArgumentError
from nas.run.export_formats.graph import InputBatch

RunBatch = Callable[[InputBatch], Tensor]
"""Returns the logits of a batch, (B, C)."""

LOGITS = "logits"
"""The name of the graph's output."""


@dataclass(frozen=True)
class ExportFormat:
    """A format of files that hold a whole model.

    Args:
        title: Its name for people.
        file: The name of the file.
        packages: The names of the packages that writing and checking need, as they are installed and imported.
        write: Writes a graph, with facts by name, to a path.
        open: Opens a file to run it on the CPU.
    """

    title: str
    file: str
    packages: tuple[str, ...]
    write: Callable[[ExportedProgram, Mapping[str, str], Path], None]
    open: Callable[[Path], RunBatch]


def _write_onnx(program: ExportedProgram, facts: Mapping[str, str], path: Path) -> None:
    """Write an ONNX file; weights above 1.5 GiB (a file holds at most 2) are in a second file beside it."""
    with _quiet():
        written: Any = torch.onnx.export(
            program,
            dynamo=True,
            input_names=list(InputBatch._fields),
            output_names=[LOGITS],
            verbose=False,
        )
    inputs = {entry.name: entry.shape for entry in written.model.graph.inputs}
    axes = zip((*inputs["pixel_values"][:1], *inputs["input_ids"]), ("batch", "batch", "length"), strict=True)
    written.rename_axes({axis.value: name for axis, name in axes if not isinstance(axis, int)})
    written.model.metadata_props.update(facts)
    written.save(path)


def _open_onnx(path: Path) -> RunBatch:
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # as many as PyTorch uses, to which it is compared
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(batch: InputBatch) -> Tensor:
        values = batch._asdict()
        (logits,) = session.run([LOGITS], {name: values[name].numpy() for name in names})
        return torch.from_numpy(logits)

    return run


def _write_program(program: ExportedProgram, facts: Mapping[str, str], path: Path) -> None:
    torch.export.save(program, path, extra_files=dict(facts))


def _open_program(path: Path) -> RunBatch:
    module: Any = torch.export.load(path).module()

    def run(batch: InputBatch) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = module(*batch)
        return logits

    return run


FORMATS: Mapping[str, ExportFormat] = {
    "onnx": ExportFormat("ONNX", "model.onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _open_onnx),
    "torch_export": ExportFormat("torch.export", "model.pt2", (), _write_program, _open_program),
}
"""The formats by the name that `export --format` takes."""


def check_packages(names: Sequence[str]) -> None:
    """Check that the packages of some formats are installed.

    Raises:
        ArgumentError: If one is not; names it and the command that installs it.
    """
    for name in names:
        packages = FORMATS[name].packages
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        if missing:
            raise ArgumentError(
                f"--format {name}: {', '.join(missing)} not installed; expected {', '.join(packages)}; install with: "
                f"pip install {' '.join(missing)}"
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the exporter reports about other packages and its own code."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
