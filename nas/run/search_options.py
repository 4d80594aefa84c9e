"""Options that commands on search files have in common, without slow imports."""

import argparse
from pathlib import Path

from nas.run.arguments import worker_count
from nas.run.following_parser import add_log_to
from nas.run.parser_parts import add_device, add_precision
from nas.run.templates import search_file


def add_search_file(parser: argparse.ArgumentParser) -> None:
    """Add the search file."""
    parser.add_argument(
        "space",
        type=search_file,
        metavar="SPACE.yaml",
        help="search file: data, encoders, search space, recipe, budget; or the name of a template (init --list)",
    )


def add_budget(parser: argparse.ArgumentParser) -> None:
    """Add the options that limit time, trials and memory."""
    parser.add_argument(
        "--budget",
        action="append",
        metavar="BUDGET",
        help="time (4m, 2h) or number of trials (200), both over all sessions; may be given twice, once for each "
        "(default: from the search file or the run)",
    )
    add_memory_budget(parser)


def add_memory_budget(parser: argparse.ArgumentParser) -> None:
    """Add the option that limits memory."""
    parser.add_argument(
        "--memory-budget",
        metavar="BYTES",
        help="memory limit of all workers of a device together, for instance 3GiB (default: from the search file or "
        "the run)",
    )


def add_places(parser: argparse.ArgumentParser) -> None:
    """Add the options that give the present places of data and encoders."""
    parser.add_argument("--data", metavar="PATH", help="present place of the manifest or folder of the data set")
    parser.add_argument("--images", metavar="PATH", help="present place of the images of the manifest")
    _add_encoder_places(parser)


def _add_encoder_places(parser: argparse.ArgumentParser) -> None:
    for modality in ("image", "text"):
        parser.add_argument(
            f"--{modality}-encoder", metavar="PATH", help=f"present place of the {modality} encoder, or its name"
        )


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Add the option that places the cache."""
    parser.add_argument(
        "--cache-dir", type=Path, help="directory of cached encoder outputs (default: ~/.cache/pmf-nas)"
    )


def add_execution(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where a search runs, how many workers it has, and where its study is."""
    add_workers(parser)
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="database for the study: sqlite:///... or postgresql://... (default: a journal in the run directory, or "
        "the recorded database of an existing run)",
    )
    parser.add_argument(
        "--accept-changed",
        action="store_true",
        help="accept a study that lost or changed records: restore missing ones from the log of the run, keep "
        "changed ones",
    )
    add_log_to(parser)


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where trainings run and how many workers there are."""
    parser.add_argument(
        "--workers",
        type=worker_count,
        default=None,
        metavar="N",
        help="number of Ray workers, or auto (default) for as many as cores, GPUs and memory allow; 0 to run "
        "everything in this process",
    )
    add_device(parser)
    add_precision(parser, None, "from the search file or the run")
    parser.add_argument("--ray-address", metavar="ADDRESS", help="Ray cluster to join (default: start a private one)")
    add_cache(parser)
    parser.add_argument(
        "--verify",
        action="store_true",
        help="hash data, encoders and cached encoder outputs again, even if sizes and modification times are unchanged",
    )
