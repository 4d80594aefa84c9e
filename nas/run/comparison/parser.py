"""The commands `compare` and `ablate`, without slow imports."""

import argparse
from pathlib import Path

from nas.run.arguments import whole_number
from nas.run.parser_parts import Commands, add_command
from nas.run.search_options import (
    add_budget,
    add_execution,
    add_memory_budget,
    add_places,
    add_search_file,
    add_workers,
)

_MAX_SEEDS = 100


def add_compare(commands: Commands) -> argparse.ArgumentParser:
    """Add the command that compares families."""
    parser = add_command(
        commands,
        "compare",
        "Train every fusion family with the same recipe, search for the best PMF, and compare all in one table.",
        "search_spaces/demo.yaml --seeds 3 --budget 4m --run-dir runs/comparison",
    )
    add_search_file(parser)
    parser.add_argument(
        "--families",
        nargs="+",
        metavar="NAME",
        help="entries of the table (default: all families that fit the encoders, and searched PMF)",
    )
    parser.add_argument(
        "--seeds",
        type=whole_number(1, _MAX_SEEDS),
        default=3,
        metavar="N",
        help="number of seeds of each entry (default: 3)",
    )
    parser.add_argument(
        "--protocol",
        choices=("base_to_novel",),
        help="base_to_novel: train on half of the classes, and test on these and on the others (default: all classes)",
    )
    parser.add_argument("--note", metavar="TEXT", help="line below the table (default: compare.note)")
    parser.add_argument("--run-dir", type=Path, help="directory of the comparison (default: runs/NAME-comparison)")
    add_budget(parser)
    add_places(parser)
    add_execution(parser)
    return parser


def add_ablate(commands: Commands) -> argparse.ArgumentParser:
    """Add the command that varies one gene at a time."""
    parser = add_command(
        commands,
        "ablate",
        "Vary one gene of an architecture at a time, train every variant completely, and compare them in one table.",
        "search_spaces/demo.yaml --gene fusion_layer --gene query_prompts=1,4,16 --run-dir runs/ablation",
    )
    add_search_file(parser)
    parser.add_argument(
        "--gene",
        action="append",
        default=[],
        metavar="NAME[=VALUES]",
        help="gene to vary, over its choices in the search file, 0 and all names included, or over these values, "
        "separated by commas; may be given several times (default: every gene)",
    )
    parser.add_argument(
        "--architecture",
        metavar="JSON",
        help="architecture to vary: values of genes such as '{\"fusion_layer\": 3}', or the directory of a run, whose "
        "best architecture is taken (default: the default of the family)",
    )
    parser.add_argument(
        "--seeds",
        type=whole_number(1, _MAX_SEEDS),
        default=3,
        metavar="N",
        help="number of seeds of each variant (default: 3)",
    )
    parser.add_argument("--test", action="store_true", help="evaluate every model on the test split, too")
    parser.add_argument("--run-dir", type=Path, help="directory of the ablation (default: runs/NAME-ablation)")
    parser.add_argument(
        "--budget",
        action="append",
        metavar="BUDGET",
        help="time (4m, 2h) of this session, or number of trainings of all sessions, after which the table is written "
        "with what has finished (default: no limit)",
    )
    add_memory_budget(parser)
    add_places(parser)
    add_workers(parser)
    return parser
