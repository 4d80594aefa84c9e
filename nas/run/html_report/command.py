"""The command `report`: write the report of a run that is running, was stopped, or has ended."""

import argparse
from dataclasses import replace
from pathlib import Path

from nas.config.overrides import Overrides
from nas.run.arms.directory import is_arms_run
from nas.run.directory import place_run, read_run
from nas.run.html_report.arms import write_arms_report
from nas.run.html_report.data import read_run_data
from nas.run.html_report.write import write_report
from nas.run.overview import run_state


def report(options: argparse.Namespace) -> Path:
    """Write the report of a run.

    Args:
        options: The run directory, the file to write, the database of the study, and the present places of the data.

    Returns:
        The file.

    Raises:
        NasError: If the directory holds no run, or one of its files is damaged.
        OSError: If the file cannot be written.
    """
    directory: Path = options.run_dir
    if is_arms_run(directory):
        return write_arms_report(directory, options.output)
    run = read_run(directory)
    places = Overrides(**{name: getattr(options, name) for name in ("data", "images", "image_encoder", "text_encoder")})
    data = read_run_data(directory, storage=options.storage, is_running=run_state(directory, run) == "running")
    return write_report(replace(data, config=place_run(run, places).config), options.output)
