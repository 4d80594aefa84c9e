"""Run benchmark commands in parallel, each in a fork of one process that has imported the slow libraries.

Usage: python .ci/measure.py COUNT <COMMANDS, with one module and its arguments per line; COUNT of them run at a time.

The output of a command is printed when it ends, with its wall-clock and processor seconds. The exit status is 1 if a
command fails.
"""

import gc
import importlib
import importlib.util
import os
import shlex
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib.abc import SourceLoader
from typing import IO

_SLOW_IMPORTS = ("optuna", "ray", "scipy.stats", "torchmetrics", "nas.execution.worker")


def main() -> None:
    """Run the commands read from standard input."""
    count, waiting = int(sys.argv[1]), [shlex.split(line) for line in sys.stdin]
    sys.path[0] = os.getcwd()  # as `python -m` sets it
    importlib.import_module("nas.common.fast_imports").import_frameworks()
    for name in _SLOW_IMPORTS:
        importlib.import_module(name)
    gc.freeze()  # pages shared with the forks stay shared
    running: dict[int, tuple[list[str], IO[str], float]] = {}
    failed = False
    with ExitStack() as files:
        while waiting or running:
            while waiting and len(running) < count:
                command, output = waiting.pop(0), files.enter_context(tempfile.TemporaryFile("w+"))
                process = os.fork()
                if not process:
                    run_module(command, output)
                    return
                running[process] = (command, output, time.monotonic())
            process, status, usage = os.wait4(-1, 0)
            command, output, started = running.pop(process)
            failed |= status != 0
            summary = f"{time.monotonic() - started:.0f} s, {usage.ru_utime + usage.ru_stime:.0f} s of processor time"
            summary += f", exit status {os.waitstatus_to_exitcode(status)}" if status else ""
            output.seek(0)
            print(f"-- {shlex.join(command)} ({summary})\n{output.read()}", end="", flush=True)
    sys.exit(int(failed))


def run_module(command: list[str], output: IO[str]) -> None:
    """Run a module as `python -m` does, with its output in a file."""
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    name, *_ = sys.argv = command
    spec = importlib.util.find_spec(name)
    if spec is None or not isinstance(spec.loader, SourceLoader):
        sys.exit(f"no module {name}")
    module = importlib.util.module_from_spec(spec)
    module.__name__ = "__main__"
    # Processes spawned by the module look its classes up under the second name.
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    exec(spec.loader.get_code(name), module.__dict__)


if __name__ == "__main__":
    main()
