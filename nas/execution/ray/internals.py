"""Every use of Ray's private API. No public option exists for these purposes; `test_ray_version.py` checks the names.

Where another version of Ray lacks a name, the program works without it, but for `loopback_only`, whose effect
`test_executors.py` checks.
"""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

_LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def silence_worker_logs() -> None:
    """Stop Ray from printing its own message about a dead worker, which it does even without `log_to_driver`.

    Without this switch, which Ray's debugger uses, the message merely appears.
    """
    worker = ray._private.worker
    if hasattr(worker, "_worker_logs_enabled"):
        worker._worker_logs_enabled = False


@contextmanager
def loopback_only() -> Iterator[None]:
    """Make all processes of a Ray that is started in the context listen on the loopback interface only.

    Otherwise they listen on all interfaces, and `ray.init` replaces a loopback address of the node by a public one.
    With this switch, which Ray uses where it supports no clusters, it does not. The processes inherit the variable;
    this process has read it when Ray was imported.
    """
    constants, before = ray._private.ray_constants, os.environ.get(_LOOPBACK_VARIABLE)
    was_enabled, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    os.environ[_LOOPBACK_VARIABLE] = "0"
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = was_enabled
        os.environ.pop(_LOOPBACK_VARIABLE, None)
        if before is not None:
            os.environ[_LOOPBACK_VARIABLE] = before


def end_processes_at_once() -> None:
    """Make `ray.shutdown` end the processes of this Ray with SIGKILL instead of waiting for each of them.

    They do not react to SIGTERM (see `nas.execution.ray.session`), so Ray would wait a second for each before.
    """
    node: Any = ray._private.worker._global_node
    if hasattr(node, "kill_all_processes"):
        node.kill_all_processes = functools.partial(_kill_all, node.kill_all_processes)


def _kill_all(kill_all_processes: Callable[..., None], **arguments: bool) -> None:
    kill_all_processes(**arguments | {"allow_graceful": False})


def dead_process() -> str | None:
    """Return the name of a process of this Ray that the others cannot do without and that has ended; None if none has.

    Ray itself notices it after up to a minute, and then ends this process.
    """
    node: Any = ray._private.worker._global_node
    dead = [name for name, _ in node.dead_processes()] if hasattr(node, "dead_processes") else []
    return next((name for name in ("gcs_server", "raylet") if name in dead), None)
