"""Tuning of the recipe before a search: without training, and in whole searches of a small project."""

import io
import json
import random
import tempfile
from collections.abc import Collection
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.common.errors import ConfigError, StudyError
from nas.common.progress import LineReporter
from nas.config.load import load_config
from nas.config.schema import Config
from nas.run.executors import ExecutionOptions
from nas.run.phases.recipe import RecipePhase
from nas.run.recipe_file import RECIPE, RecipeFile
from nas.run.time_budget import Phase
from nas.search.recipe_tuning import SETTINGS, TRAININGS, RecipeSetting
from nas.search.trial import Failure, Job
from nas.storage.study import Study
from tests.support.project import Project
from tests.support.runs import results_of, resume_search, run_search, without_measurements
from tests.support.search_loop import FULL_STEPS, Killed, SimulatedExecutor, build_context, config_with, peak_bytes


def tune(
    directory: Path,
    config: Config,
    executor: SimulatedExecutor,
    budget_bytes: int = 1000,
    left_out: Collection[Phase] = (),
) -> RecipeFile:
    """Run or resume the phase without training."""
    output = io.StringIO()
    with Study(directory, config.space, name="run", config=config.as_dict()) as study:
        context = build_context(directory, config, study, executor, budget_bytes, LineReporter(output), left_out)
        RecipePhase(config.space.largest, full_steps=FULL_STEPS).run(context)
        return context.recorder.recipe


def tuned(**changes: object) -> Config:
    return config_with(**{"budget__recipe_fraction": 0.2, **changes})


def test_phase_trains_all_rungs_and_stores_its_choice(tmp_path: Path) -> None:
    file = tune(tmp_path, tuned(), SimulatedExecutor([2], random.Random(0)))
    assert len(file.results()) == TRAININGS and file.chosen is not None
    assert {result.step_count for result in file.results()} == {FULL_STEPS, 2 * FULL_STEPS}
    stored = RecipeFile(tmp_path / RECIPE)
    assert stored.chosen == file.chosen and stored.scores() == file.scores()
    assert stored.setting == SETTINGS[file.chosen]


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6))
def test_choice_is_the_same_for_any_workers_and_kills(seed: int) -> None:
    chance, config = random.Random(seed), tuned(deterministic=True)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        expected = tune(Path(first), config, SimulatedExecutor([1], random.Random(0)))
        while True:
            ends = iter(range(chance.randint(0, 6), -1, -1))

            def kill(ends: object = ends) -> None:
                if next(ends) == 0:  # type: ignore[call-overload]
                    raise Killed

            try:
                found = tune(Path(second), config, SimulatedExecutor([chance.randint(1, 4)], chance, on_end=kill))
            except (Killed, StopIteration):
                continue
            break
    assert found.chosen == expected.chosen and found.scores() == expected.scores()


def test_failing_setting_is_left_out_and_the_smallest_stands_in_for_a_default_that_does_not_fit(
    tmp_path: Path,
) -> None:
    config = tuned()

    def fate(job: Job, grant: int) -> Failure | None:
        return None if job.recipe.steps == 1 else Failure(job, "error", "TrainingError", "diverged")

    budget_bytes = peak_bytes(config.space.largest) - 1
    file = tune(tmp_path, config, SimulatedExecutor([1], random.Random(0), fate=fate), budget_bytes)
    assert {result.architecture for result in file.results()} == {config.space.smallest}
    assert file.setting.steps == 1


def test_without_its_fraction_of_the_time_the_recipe_is_used_as_it_is(tmp_path: Path) -> None:
    file = tune(tmp_path, config_with(), SimulatedExecutor([1], random.Random(0)))
    assert file.chosen is None and file.setting == RecipeSetting() and not (tmp_path / RECIPE).exists()


def test_recipe_that_was_left_out_for_lack_of_time_stays_as_configured(tmp_path: Path) -> None:
    left_out = tune(tmp_path, tuned(), SimulatedExecutor([1], random.Random(0)), left_out=["recipe"])
    assert left_out.chosen == 0 and not left_out.results()
    later = tune(tmp_path, tuned(), SimulatedExecutor([1], random.Random(0)))
    assert later.chosen == 0 and not later.results(), "what was computed meanwhile cannot be compared with another"


def test_fractions_of_the_phases_leave_time_for_candidates() -> None:
    with pytest.raises(ConfigError, match="less than 1 together with recipe_fraction and supernet_fraction"):
        config_with(budget__recipe_fraction=0.5)


@pytest.mark.long
def test_search_with_a_tuned_recipe_equals_one_with_that_recipe_written_down(
    project: Project, options: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = SETTINGS.index(RecipeSetting(rate=3, classifier_rate=3, steps=2))
    monkeypatch.setattr("nas.run.phases.recipe.choose_setting", lambda scores: setting)
    little: dict[str, object] = {
        "space.fusion_layer": [2],
        "budget.trials": 3,
        "supernet.steps": 3,
        "search.round_size": 3,
        "search.finalists": 1,
        "recipe.epochs": 1,
    }
    source = project.write("tuned.yaml", **little, **{"budget.recipe_fraction": 0.2})
    run = tmp_path / "tuned"
    output = run_search(source, run, options)
    assert "Recipe: learning rates × 3, steps × 2 (" in output and "; as configured (" in output
    assert not list((run / "full").glob("recipe_*")), "the weights are not needed"

    recipe = load_config(source).recipe
    rates = {name: 3 * rate for name, rate in recipe.learning_rates}
    written = project.write("written.yaml", **little | {"recipe.learning_rates": rates, "recipe.epochs": 2})
    run_search(written, tmp_path / "written", options)
    found, expected = (without_measurements(results_of(tmp_path / name)) for name in ("tuned", "written"))
    assert found == expected

    resumed = resume_search(run, options)
    assert "Recipe, " not in resumed and json.loads((run / RECIPE).read_text())["chosen"] == setting
    (run / RECIPE).unlink()
    with pytest.raises(StudyError, match=r"recipe\.json: is missing; 3 scores were computed with the setting"):
        resume_search(run, options)
