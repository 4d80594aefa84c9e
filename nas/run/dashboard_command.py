"""The command `dashboard`, without slow imports before its arguments are known."""

import argparse
from collections.abc import Callable

from nas.common.fast_imports import import_frameworks
from nas.common.registry import load_object


def show_dashboard(options: argparse.Namespace) -> None:
    """Serve the studies of a run to a browser; see `nas.run.dashboard.serve`."""
    import_frameworks()
    serve: Callable[..., None] = load_object("nas.run.dashboard:serve")
    serve(options.run_dir, host=options.host, port=options.port, storage=options.storage)
