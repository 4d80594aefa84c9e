"""Options and commands to follow a search, without slow imports."""

import argparse
from pathlib import Path

from nas.run.arguments import whole_number
from nas.run.loggers.names import LOGGERS
from nas.run.parser_parts import Commands, add_command


def add_dashboard(commands: Commands) -> argparse.ArgumentParser:
    """Add the command that shows a run in a browser."""
    parser = add_command(
        commands,
        "dashboard",
        "Show a run in a browser through optuna-dashboard: history, importance of genes, learning curves.",
        "runs/demo",
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="directory of the run")
    parser.add_argument(
        "--port",
        type=whole_number(0, 65_535),
        default=8080,
        metavar="N",
        help="port to listen at; 0 for any that is free (default: 8080)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen at (default: 127.0.0.1, which only this machine reaches)",
    )
    parser.add_argument("--storage", metavar="URL", help="database of the study (default: the recorded one)")
    return parser


def add_log_to(parser: argparse.ArgumentParser) -> None:
    """Add the option that names loggers."""
    parser.add_argument(
        "--log-to",
        action="append",
        choices=LOGGERS,
        default=[],
        help="log learning curves and scores to a tracker, on its server or in the run directory; sessions that resume "
        "the run continue it",
    )
