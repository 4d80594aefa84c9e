"""The valid project with a finished run and an exported model."""

import multiprocessing
import os
import sys
from pathlib import Path

from benchmarks.fuzzing.cases import COMMANDS, filled
from benchmarks.fuzzing.project import build_project
from nas.cli import main

_OUTPUTS = {"search": "run", "export": "model"}


def prepare_base(work: Path) -> Path:
    """Build the project, search once and export the best model; return the folder of the project.

    Args:
        work: The folder in which the project gets one.

    Raises:
        RuntimeError: If a command fails; its message is on standard error.
    """
    # In a process of its own: threads that training has started would be missing in processes forked later.
    process = multiprocessing.get_context("fork").Process(target=_prepare, args=(work,))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError("a command fails for the valid project")
    return work / "base"


def _prepare(work: Path) -> None:
    base, cache = work / "base", work / "cache"
    build_project(base)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for name, output in _OUTPUTS.items():
        words = [word.replace("/new", f"/{output}").replace("/exported", f"/{output}") for word in COMMANDS[name]]
        if main(filled(tuple(words), base, cache)) != 0:
            sys.exit(1)
