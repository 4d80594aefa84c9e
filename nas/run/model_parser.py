"""The options of the commands that use exported models: evaluate and predict."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from nas.common.errors import ArgumentError
from nas.common.units import MAX_COUNT
from nas.config.choices import COLUMNS
from nas.config.reader_registry import READERS
from nas.run.arguments import whole_number
from nas.run.parser_parts import Commands, add_accept_changed, add_command, add_device, add_precision
from nas.run.program_name import program_call


def add_evaluate(commands: Commands) -> argparse.ArgumentParser:
    """Add the command `evaluate`."""
    parser = add_command(
        commands,
        "evaluate",
        "Evaluate an exported model on a data set.",
        "runs/demo/best --data demo/data/manifest.csv --images demo/data/images.zip",
    )
    parser.add_argument("model", type=Path, metavar="DIR", help="folder of the exported model")
    _add_table(parser, "manifest or folder of the data set", is_required=True)
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test", "all"),
        default="test",
        help="split to evaluate (default: test, or all where the data set has no column of splits)",
    )
    _add_columns(parser, COLUMNS)
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the whole report to a JSON file")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    add_device(parser)
    add_precision(parser, "auto", "auto")
    add_accept_changed(parser)
    return parser


def add_predict(commands: Commands) -> argparse.ArgumentParser:
    """Add the command `predict`."""
    parser = add_command(
        commands,
        "predict",
        "Classify one image with its text, or every row of a table. A model for retrieval ranks the texts of the table "
        "for each of its pictures, and its pictures for each of its texts.",
        'runs/demo/best --image apple.png --text "red apple"\n'
        f"  {program_call()} predict runs/demo/best --data new.csv --images photos --output predictions.csv",
    )
    parser.add_argument("model", type=Path, metavar="DIR", help="folder of the exported model")
    one = parser.add_argument_group("one sample")
    one.add_argument("--image", type=Path, metavar="FILE", help="image file")
    one.add_argument("--text", help="text of the image")
    one.add_argument("--json", action="store_true", help="print the prediction as JSON")
    _add_table(parser.add_argument_group("a table"), "table to predict: manifest or folder of a data set")
    _add_table_output(parser)
    parser.add_argument(
        "--top",
        type=whole_number(1, MAX_COUNT),
        metavar="K",
        help="number of most probable classes to show (default: 5 for one sample, none besides the prediction for a "
        "table); if several labels are possible, all predicted ones are shown for one sample; for retrieval the number "
        "of texts and of pictures to list for every row (default: 5)",
    )
    add_device(parser)
    add_precision(parser, "auto", "auto")
    add_accept_changed(parser)
    return parser


def _add_table(parser: "argparse._ActionsContainer", what: str, *, is_required: bool = False) -> None:
    """Add the options that locate a data set."""
    parser.add_argument("--data", type=Path, required=is_required, metavar="PATH", help=what)
    parser.add_argument(
        "--reader", choices=READERS.names(), help="reader of the data set (default: as for the training data)"
    )
    parser.add_argument(
        "--images", type=Path, help="folder or ZIP file of the images (default: the folder of the manifest)"
    )


def _add_columns(parser: "argparse._ActionsContainer", names: Iterable[str]) -> None:
    """Add the options that name columns."""
    for name in names:
        parser.add_argument(
            f"--{name}-column", metavar="NAME", help=f"column of the {name}s (default: as in the training data)"
        )


def _add_table_output(parser: argparse.ArgumentParser) -> None:
    """Add the options about the table of predictions."""
    table = parser.add_argument_group("the table of predictions")
    _add_columns(table, ("image", "text"))
    table.add_argument(
        "--id-column", metavar="NAME", help="column that names the rows (default: id, or the number of the row)"
    )
    table.add_argument(
        "--output", type=Path, metavar="FILE", help="table to write: .csv, .tsv, .jsonl, .ndjson or .parquet"
    )
    table.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    table.add_argument("--probabilities", action="store_true", help="write the probability of every class")
    table.add_argument(
        "--batch-size",
        type=whole_number(1, 100_000),
        default=32,
        metavar="N",
        help="number of rows that are computed at once (default: 32)",
    )
    table.add_argument(
        "--on-error",
        choices=("stop", "keep"),
        default="stop",
        help="stop (default) at a row that cannot be predicted, or keep it, without a prediction and with its error in "
        "a column; the exit status is 3 then",
    )
    table.add_argument(
        "--spreadsheet",
        action="store_true",
        help="put an apostrophe in front of texts that a spreadsheet would take for formulas",
    )


def check_choice(options: argparse.Namespace) -> None:
    """Check that `predict` is called for one sample or for a table.

    Raises:
        ArgumentError: If it is called for neither, or for both.
    """
    is_one = options.image is not None or options.text is not None or options.json
    is_table = options.data is not None or options.output is not None
    complete = {(True, False): ("image", "text"), (False, True): ("data", "output")}.get((is_one, is_table), ())
    if not complete or any(getattr(options, name) is None for name in complete):
        raise ArgumentError(
            "predict: expected --image and --text for one sample (--json is for it), or --data and --output for a table"
        )
