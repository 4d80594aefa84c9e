"""Serve the studies of a run to a browser through optuna-dashboard."""

import importlib
import ipaddress
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from nas.common.errors import ArgumentError, StudyError
from nas.common.output import visible
from nas.run.arms.directory import arm_directory, is_arms_run, read_arms_run
from nas.run.directory import is_run, read_run
from nas.storage.urls import stored_url
from nas.storage.viewing import ReadOnlyStorage, RunToView


def serve(directory: Path, *, host: str, port: int, storage: str | None = None) -> None:
    """Serve the studies of a run until Ctrl-C.

    Args:
        directory: The run directory, of a search over one or several arms.
        host: The address to listen at.
        port: The port; 0 for any that is free.
        storage: The URL of the database in place of the recorded one: with the password, or its present place.

    Raises:
        ArgumentError: If optuna-dashboard is not installed, or the address cannot be used.
        StudyError: If there is no study yet, or it cannot be read.
    """
    build = _application_builder()
    with closing(ReadOnlyStorage(runs_to_view(directory, storage))) as studies:
        try:
            server = make_server(host, port, build(studies), WSGIServer, _QuietHandler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ArgumentError(
                f"--host {host} --port {port}: cannot be listened at: {reason}; choose another port, or --port 0 for "
                "any that is free"
            ) from error
        with server:
            print(
                visible(f"Dashboard of {directory}: http://{_shown_host(host)}:{server.server_port}/ (Ctrl-C ends it)")
            )
            if not _is_loopback(host):
                print("Anyone who reaches this address can read the results; there is no password")
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                return


def _application_builder() -> Callable[[ReadOnlyStorage], Any]:
    try:
        module = importlib.import_module("optuna_dashboard")
    except ImportError as error:
        raise ArgumentError(
            f"dashboard: optuna-dashboard is not installed ({error}); run pip install 'pmf-nas[dashboard]', or "
            "pip install optuna-dashboard"
        ) from error
    build: Callable[[ReadOnlyStorage], Any] = module.wsgi
    return build


def runs_to_view(directory: Path, storage: str | None = None) -> list[RunToView]:
    """Return the runs of a directory that have a study: one, or those of all arms that were reached.

    Args:
        directory: The run directory, of a search over one or several arms.
        storage: The URL of the database in place of the recorded one.

    Raises:
        StudyError: If the directory holds no run, or none of its arms was reached.
    """
    if not is_arms_run(directory):
        return [_run_to_view(directory, storage, title=None)]
    places = {name: arm_directory(directory, name) for name in read_arms_run(directory).names}
    runs = [_run_to_view(place, storage, title=name) for name, place in places.items() if is_run(place)]
    if not runs:
        raise StudyError(f"{directory}: none of its arms was reached yet, so that there is nothing to show")
    return runs


def _run_to_view(directory: Path, storage: str | None, *, title: str | None) -> RunToView:
    run = read_run(directory)
    url = storage if storage is not None or run.storage is None else stored_url(run.storage, directory)
    return RunToView(directory, run.identity, url, title)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class _QuietHandler(WSGIRequestHandler):
    """Handler that prints no line for each request."""

    def log_message(self, format: str, *arguments: Any) -> None:
        del format, arguments
