"""The parser of the command line: commands, options and their help texts, without slow imports."""

import argparse
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

from nas.common.units import MAX_COUNT, MAX_SEED
from nas.config.choices import ANSWERS, COLUMNS, EXPORT_FORMATS
from nas.run.arguments import whole_number
from nas.run.comparison.parser import add_ablate, add_compare
from nas.run.following_parser import add_dashboard
from nas.run.model_parser import add_evaluate, add_predict
from nas.run.parser_parts import Command, Commands, Parser, add_command, add_device
from nas.run.program_name import program_call, program_name
from nas.run.search_options import (
    add_budget,
    add_cache,
    add_execution,
    add_memory_budget,
    add_places,
    add_search_file,
)
from nas.search.strategies.registry import STRATEGIES


def build_parser(handlers: Mapping[str, Command]) -> argparse.ArgumentParser:
    """Build the parser of the command line.

    Args:
        handlers: The function that runs each command, by name; parsed options hold it as `command`.
    """
    parser = Parser(
        prog=program_name(),
        description="Search for the best prompt-based multimodal fusion (PMF) model for images, texts and labels.",
    )
    parser.add_argument("--version", action="version", version=f"pmf-nas {importlib.metadata.version('pmf-nas')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (
        _add_init,
        _add_check,
        _add_space,
        _add_search,
        _add_resume,
        _add_export,
        add_evaluate,
        add_predict,
        add_compare,
        add_ablate,
        _add_report,
        _add_list,
        _add_diff,
        _add_clean,
        add_dashboard,
    ):
        command = add(commands)
        command.set_defaults(command=handlers[command.prog.split()[-1]])
    return parser


def _add_check(commands: Commands) -> argparse.ArgumentParser:
    parser = add_command(
        commands,
        "check",
        "Check what can be known before a search: data, images, encoders, memory, and the plan with its times.",
        "search_spaces/demo.yaml",
    )
    add_search_file(parser)
    add_budget(parser)
    add_places(parser)
    add_cache(parser)
    return parser


def _add_space(commands: Commands) -> argparse.ArgumentParser:
    parser = add_command(
        commands,
        "space",
        "Show the search space of a search file, and the part of it that fits the memory budget.",
        "search_spaces/demo.yaml --memory-budget 560MiB",
    )
    add_search_file(parser)
    add_memory_budget(parser)
    add_device(parser)
    add_places(parser)
    return parser


def _add_search(commands: Commands) -> argparse.ArgumentParser:
    parser = add_command(
        commands,
        "search",
        "Search within a budget, and export the best model.",
        "search_spaces/demo.yaml --budget 6m --memory-budget 3GiB --run-dir runs/demo",
    )
    add_search_file(parser)
    parser.add_argument(
        "--strategy", choices=STRATEGIES.names(), help="search strategy (default: from the search file)"
    )
    parser.add_argument(
        "--seed", type=whole_number(0, MAX_SEED), help="seed of the search (default: from the search file)"
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        default=None,
        help="give the same trials and values for any number of workers: ignore timings and measured memory, and "
        "require a budget in trials",
    )
    parser.add_argument(
        "--warm-start", type=Path, metavar="RUN_DIR", help="screen the best architectures of this earlier run first"
    )
    parser.add_argument("--run-dir", type=Path, help="directory of the run (default: runs/NAME-SEED)")
    add_budget(parser)
    add_places(parser)
    add_execution(parser)
    return parser


def _add_resume(commands: Commands) -> argparse.ArgumentParser:
    parser = add_command(commands, "resume", "Resume a run; finished results are never lost.", "runs/demo --budget 10m")
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="directory of the run")
    add_budget(parser)
    add_places(parser)
    add_execution(parser)
    return parser


def _add_export(commands: Commands) -> argparse.ArgumentParser:
    parser = add_command(
        commands,
        "export",
        "Export the answer of a run, or one of its candidates, as a model folder, which may also hold it as ONNX.",
        f"runs/demo --output my_model\n  {program_call()} export my_model --format onnx",
    )
    parser.add_argument(
        "run_dir", type=Path, metavar="DIR", help="directory of the run; with --format, also an exported model"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder to write (of an exported model, default: the same folder)"
    )
    parser.add_argument(
        "--format",
        nargs="+",
        choices=EXPORT_FORMATS,
        metavar="NAME",
        help="also write the model as ONNX (onnx) or as a program of torch.export (torch_export), each checked against "
        "the model with the validation split",
    )
    parser.add_argument("--storage", metavar="URL", help="database of the study (default: the recorded one)")
    add_places(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--trial", type=whole_number(0, MAX_COUNT), metavar="N", help="number of the candidate")
    which.add_argument(
        "--pick",
        nargs="+",
        metavar="RULE",
        help="answer (default), a simpler model (linear, bilinear: the solved classifier on the frozen encoders), or a "
        "rule that picks from the candidates that were trained furthest: best (best metric), knee (best compromise of "
        "all objectives), or smallest-within X (fewest parameters with a metric at most X worse than the best)",
    )
    which.add_argument(
        "--answer",
        choices=ANSWERS,
        help="single (the best architecture, or a simpler model as good as it), ensemble, or auto (the ensemble where "
        "its gain is not luck; default: as in the search file)",
    )
    return parser


def _add_init(commands: Commands) -> argparse.ArgumentParser:
    parser = add_command(
        commands,
        "init",
        "Propose a search file for a table of images, texts and labels, or without labels for image-text retrieval: "
        "columns, splits and encoders are found.",
        "demo/data/manifest.csv --output mine.yaml",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "table", type=Path, nargs="?", metavar="TABLE", help="CSV, TSV, JSON, JSON Lines or Parquet file"
    )
    which.add_argument("--template", metavar="NAME", help="write this template instead")
    which.add_argument("--list", action="store_true", dest="lists", help="list the templates")
    parser.add_argument("--images", type=Path, metavar="PATH", help="folder or ZIP file of the images")
    for role in COLUMNS:
        parser.add_argument(f"--{role}", dest=f"{role}_column", metavar="COLUMN", help=f"the column of {role}s")
    parser.add_argument("--output", type=Path, metavar="FILE", help="file to write (default: standard output)")
    return parser


def _add_report(commands: Commands) -> argparse.ArgumentParser:
    parser = add_command(
        commands,
        "report",
        "Write the report of a run, a page to open in a browser; a search writes it as well.",
        "runs/demo",
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="directory of the run")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="file to write (default: report.html in the run directory)"
    )
    parser.add_argument("--storage", metavar="URL", help="database of the study, if it is not the recorded one")
    add_places(parser)
    return parser


def _add_list(commands: Commands) -> argparse.ArgumentParser:
    parser = add_command(commands, "list", "List the runs of a folder: state, best score, time and size.", "runs")
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("runs"), metavar="DIR", help="folder of runs (default: runs)"
    )
    return parser


def _add_clean(commands: Commands) -> argparse.ArgumentParser:
    parser = add_command(
        commands,
        "clean",
        "Delete abandoned caches, whose runs are gone, and abandoned runs, which were stopped long ago; asks first.",
        "runs --older-than 30d --dry-run",
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("runs"), metavar="DIR", help="folder of runs (default: runs)"
    )
    add_cache(parser)
    parser.add_argument(
        "--older-than",
        metavar="AGE",
        help="only what has not changed for this time, such as 7d (default: 30d for runs, any age for caches)",
    )
    parser.add_argument(
        "--unknown", action="store_true", help="delete caches without a record of their runs as well; runs may use them"
    )
    parser.add_argument("--yes", action="store_true", help="delete without asking, for scripts")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be deleted")
    parser.add_argument("--json", action="store_true", help="print what was found, and what was deleted, as JSON")
    return parser


def _add_diff(commands: Commands) -> argparse.ArgumentParser:
    parser = add_command(
        commands, "diff", "Show what differs between two runs: configuration, data, results.", "runs/demo runs/demo-2"
    )
    parser.add_argument("first", type=Path, metavar="RUN_DIR", help="directory of a run")
    parser.add_argument("second", type=Path, metavar="RUN_DIR", help="directory of another run")
    return parser
