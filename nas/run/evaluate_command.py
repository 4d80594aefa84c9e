"""The command `evaluate`."""

import argparse

from nas.common.devices import device_of, precision_of
from nas.common.errors import ArgumentError
from nas.common.files import write_atomically
from nas.common.output import visible, warn
from nas.config.choices import COLUMNS
from nas.run.evaluate import ALL, evaluate_exported
from nas.run.evaluation_data import evaluation_data
from nas.run.evaluation_report import report_json, report_lines


def evaluate(options: argparse.Namespace) -> None:
    """Evaluate an exported model, and print and write the report.

    Raises:
        NasError: If an option, the model or the data cannot be used.
    """
    if options.output is not None and options.output.exists() and not options.overwrite:
        raise ArgumentError(f"--output {options.output}: exists; expected a new file, or --overwrite to replace it")
    device = device_of(options.device)
    columns = {name: value for name in COLUMNS if (value := getattr(options, f"{name}_column")) is not None}
    data, is_whole = evaluation_data(
        options.model, options.data, reader=options.reader, images=options.images, columns=columns
    )
    evaluation = evaluate_exported(
        options.model,
        data,
        ALL if is_whole else options.split,
        device=device,
        precision=precision_of(options.precision, device),
        accept_changed=options.accept_changed,
        on_note=warn,
    )
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.output, f"{report_json(evaluation)}\n".encode())
    print(report_json(evaluation) if options.json else visible("\n".join(report_lines(evaluation))))
