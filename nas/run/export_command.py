"""The command `export`."""

import argparse
from pathlib import Path

from nas.common.errors import ArgumentError
from nas.common.output import visible
from nas.config.data_schema import DataConfig
from nas.config.overrides import Overrides
from nas.models.model_seals import CONFIG
from nas.run.arms.directory import is_arms_run
from nas.run.arms.report import answering_run
from nas.run.directory import is_run, place_run, read_run
from nas.run.ensemble import Ensemble
from nas.run.evaluate import ALL
from nas.run.evaluation_data import evaluation_data
from nas.run.export_formats.add import add_formats
from nas.run.export_formats.formats import check_packages
from nas.run.export_run import export_run
from nas.run.model_folder import copy_model_folder
from nas.run.progress_lines import STAGE_VERBS, better_model_lines
from nas.run.roles import ExportRule
from nas.search.keys import CandidateKey


def export(options: argparse.Namespace, how: tuple[ExportRule, float], places: Overrides) -> None:
    """Export the answer of a run, and write an exported model in other formats.

    Args:
        options: The options of the command.
        how: The rule by which a candidate is picked.
        places: The present places of data and encoders.

    Raises:
        NasError: If an option, the run or the model cannot be used.
    """
    formats: list[str] = list(dict.fromkeys(options.format or ()))
    check_packages(formats)  # before anything is written
    if (options.run_dir / CONFIG).exists() and not is_run(options.run_dir):
        _add_to_model(options, formats)
        return
    if options.output is None:
        raise ArgumentError("export: --output is missing; expected the folder to write")
    run = answering_run(options.run_dir) if is_arms_run(options.run_dir) else options.run_dir
    _export_run(run, options, how, places)
    if formats:
        data = place_run(read_run(run), places).config.data
        add_formats(options.output, formats, data, _show)


def _add_to_model(options: argparse.Namespace, formats: list[str]) -> None:
    """Write a model folder, or a copy of it, in other formats."""
    if not formats:
        raise ArgumentError(
            f"{options.run_dir}: holds an exported model already; expected the directory of a run, or --format"
        )
    for name in ("trial", "pick", "answer", "storage", "image_encoder", "text_encoder"):
        if getattr(options, name) is not None:
            raise ArgumentError(f"--{name.replace('_', '-')}: not allowed for an exported model; expected a run")
    folder: Path = options.run_dir
    data: DataConfig | None = None
    is_whole = False
    if options.data is not None:
        images = None if options.images is None else Path(options.images)
        data, is_whole = evaluation_data(folder, Path(options.data), reader=None, images=images, columns={})
    elif options.images is not None:
        raise ArgumentError("--images: not allowed without --data for an exported model; expected both or none")
    if options.output is not None and options.output.resolve() != folder.resolve():
        copy_model_folder(folder, options.output)
        folder = options.output
    add_formats(folder, formats, data, _show, ALL if is_whole else "validation")


def _export_run(run: Path, options: argparse.Namespace, how: tuple[ExportRule, float], places: Overrides) -> None:
    is_single = options.trial is not None or how[0] != "answer"
    exported = export_run(
        run,
        options.output,
        trial=options.trial,
        how=how,
        storage=options.storage,
        answer="single" if is_single else options.answer,
        places=places,
    )
    if isinstance(exported, Ensemble):
        _show(f"Exported model: {options.output} (ensemble of {exported.text})")
        return
    name = f"trial {exported.trial}" if isinstance(exported.key, CandidateKey) else exported.key.name
    which = f"{name}, {STAGE_VERBS[exported.stage]}, {exported.architecture}"
    for line in (f"Exported model: {options.output} ({which})", *better_model_lines(exported.stage, options.run_dir)):
        _show(line)


def _show(line: str) -> None:
    print(visible(line))
