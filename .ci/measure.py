"""Run measurements beside one another, each in a fork of one process that has imported what takes seconds to import.

Run: python .ci/measure.py COUNT <COMMANDS, where a line is a module and its arguments; COUNT run at a time.

What each says is printed together when it ends, with its seconds, and those of a core that it and what it waited for
took. The status is 1 if that of any is not 0.
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

_SLOWLY_IMPORTED = ("nas.common.fast_imports", "optuna", "ray", "scipy.stats", "torchmetrics", "nas.execution.worker")


def main() -> None:
    count, waiting = int(sys.argv[1]), [shlex.split(line) for line in sys.stdin]
    sys.path[0] = os.getcwd()  # as `python -m` has it
    for name in _SLOWLY_IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # what the forks share stays shared
    running: dict[int, tuple[list[str], IO[str], float]] = {}
    failed = False
    with ExitStack() as files:
        while waiting or running:
            while waiting and len(running) < count:
                command, said = waiting.pop(0), files.enter_context(tempfile.TemporaryFile("w+"))
                process = os.fork()
                if not process:
                    become(command, said)
                    return
                running[process] = (command, said, time.monotonic())
            process, status, used = os.wait4(-1, 0)
            command, said, started = running.pop(process)
            failed |= status != 0
            how = f"{time.monotonic() - started:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of a core"
            how += f", exit status {os.waitstatus_to_exitcode(status)}" if status else ""
            said.seek(0)
            print(f"-- {shlex.join(command)} ({how})\n{said.read()}", end="", flush=True)
    sys.exit(int(failed))


def become(command: list[str], said: IO[str]) -> None:
    """What `python -m command` does."""
    for stream in (1, 2):
        os.dup2(said.fileno(), stream)
    name, *_ = sys.argv = command
    spec = importlib.util.find_spec(name)
    if spec is None or not isinstance(spec.loader, SourceLoader):
        sys.exit(f"there is no module {name}")
    main = importlib.util.module_from_spec(spec)
    main.__name__ = "__main__"
    # By the second name processes that this one spawns send what its classes are of.
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main
    exec(spec.loader.get_code(name), main.__dict__)


if __name__ == "__main__":
    main()
