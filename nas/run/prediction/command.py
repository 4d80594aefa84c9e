"""The command `predict`."""

import argparse

from nas.common.devices import device_of, precision_of
from nas.common.output import warn
from nas.common.progress import build_reporter
from nas.run.evaluation_data import described_data
from nas.run.exported_model import ExportedModel, open_exported
from nas.run.prediction.single import classify
from nas.run.prediction.table import TableOptions, predict_table

_TOP = 5
_HAS_ERRORS = 3


def predict_one(options: argparse.Namespace) -> int:
    """Print the prediction for one sample and return the exit status."""
    device = device_of(options.device)
    answer = classify(
        options.model,
        options.image,
        options.text,
        options.top or _TOP,
        device=device,
        precision=precision_of(options.precision, device),
        accept_changed=options.accept_changed,
        on_note=warn,
    )
    print(answer.json() if options.json else answer.lines())
    return 0


def predict_rows(options: argparse.Namespace) -> int:
    """Write the predictions for a table and return the exit status: 3 if there are rows without one."""
    columns = {name: value for name in ("image", "text") if (value := getattr(options, f"{name}_column")) is not None}
    data = described_data(options.model, options.data, reader=options.reader, images=options.images, columns=columns)
    device = device_of(options.device)

    def open_model() -> ExportedModel:
        return open_exported(
            options.model,
            device=device,
            precision=precision_of(options.precision, device),
            accept_changed=options.accept_changed,
            on_note=warn,
        )

    table = TableOptions(
        id_column=options.id_column,
        top=options.top or 0,
        all_probabilities=options.probabilities,
        keeps_errors=options.on_error == "keep",
        is_spreadsheet=options.spreadsheet,
        batch_size=options.batch_size,
    )
    with build_reporter() as reporter:
        outcome = predict_table(
            open_model, data, options.output, table, reporter=reporter, overwrites=options.overwrite
        )
        failed = f", {outcome.errors} of them without a prediction (column error)" if outcome.errors else ""
        reporter.note(f"Predictions: {options.output} ({outcome.rows} rows{failed})")
    return _HAS_ERRORS if outcome.errors else 0
