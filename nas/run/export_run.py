"""Export the answer of a run, one of its candidates as far as the search has trained it, or a simpler model."""

import contextlib
from pathlib import Path

from nas.config.choices import AnswerKind
from nas.config.overrides import Overrides
from nas.config.schema import Config
from nas.data.contents import encoder_parts
from nas.run.contents import check_encoders_of_run
from nas.run.directory import place_run, read_run, read_study, write_run
from nas.run.ensemble import Ensemble, needed_ensemble
from nas.run.export import TrainedWeights, export_result
from nas.run.export_ensemble import export_ensemble
from nas.run.finalize import identity, read_report
from nas.run.model_card import describe
from nas.run.model_parts import ModelParts
from nas.run.roles import ExportRule
from nas.run.select import find_result, latest_results, pick_result
from nas.run.sources import resolve_checkpoints
from nas.search.trial import Result

_NO_OVERRIDES = Overrides()


def export_run(
    directory: Path,
    output: Path,
    *,
    trial: int | None,
    how: tuple[ExportRule, float],
    storage: str | None,
    answer: AnswerKind | None = "single",
    places: Overrides = _NO_OVERRIDES,
) -> Result | Ensemble:
    """Export the answer of a run, one of its candidates, or a simpler model, as a model folder.

    A rule picks from the last stage that any candidate has completed.

    Args:
        directory: The run directory.
        output: The folder to write.
        answer: `single` for a single model, `ensemble`, or `auto` for the ensemble where its gain is not luck; None for
            the answer that the search file asks for.
        trial: The number of the candidate; None to pick one by rule.
        how: The rule, and how much lower than the best the metric may be; see `nas.search.objectives.pick`. `answer`
            exports the answer, and the role of a simpler model that model.
        storage: The database URL in place of the recorded one; see `read_study`.
        places: The present places of the encoders, which the run then records.

    Returns:
        The result whose weights were exported, or the ensemble.

    Raises:
        StudyError: If the candidate has no score, no candidate meets the constraints, an ensemble was asked for and
            there is none, or the encoders are not those of the run.
        ExportError: If the folder cannot be written.
    """
    run = place_run(read_run(directory), places)
    config = run.config
    study = read_study(directory, run, storage=storage)
    kind = answer or config.search.answer
    ensemble = None if kind == "single" else needed_ensemble(directory, kind, is_asked=answer is not None)
    chosen = None if trial is None else find_result(directory, study, trial)
    results = latest_results(study)
    parts = ModelParts.load(config, run.class_names)
    check_encoders_of_run(directory, run.contents, config, _digests(config, parts))
    exported: Result | Ensemble
    if ensemble is not None:
        exported = ensemble
        facts = export_ensemble(output, ensemble, directory, parts=parts, config=config)
    else:
        exported = chosen or pick_result(directory, config, parts, results, how)
        trained = TrainedWeights.of(directory, exported, config.space)
        facts = export_result(output, trained, parts=parts, objective=config.search.objective, data=config.data)
    for entry in read_report(directory).values():
        if {name: entry.get(name) for name in ("result", "members")} == identity(
            exported
        ):  # its test metrics are known
            describe(output, facts | {key: entry[key] for key in ("test", "test_samples")})
    if places != _NO_OVERRIDES:
        with contextlib.suppress(OSError):  # a run that cannot be written to can still be exported
            write_run(directory, run)
    return exported


def _digests(config: Config, parts: ModelParts) -> dict[str, str]:
    encoders = (parts.image_encoder, parts.text_encoder)
    return encoder_parts(encoders, parts.preprocessor, resolve_checkpoints(config), cache_directory=None)
