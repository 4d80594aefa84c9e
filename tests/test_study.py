from pathlib import Path

import optuna
import pytest

from nas.errors import StudyError
from nas.report import write_results
from nas.results import Job, Result, Stage
from nas.space import GENES, Architecture, SearchSpace
from nas.study import JOURNAL, Study

SPACE = SearchSpace(dict.fromkeys(GENES, (1, 2, 3)))
FIRST, SECOND, THIRD = Architecture(1, 1, 1, 1, 1), Architecture(1, 2, 1, 1, 1), Architecture(1, 3, 1, 1, 1)


def result(trial: int, architecture: Architecture, stage: Stage = "inherited", score: float = 0.5) -> Result:
    return Result(trial, architecture, stage, score, {"accuracy": score}, 0, 7, 1, 2.0, 100, 90)


def test_what_was_finished_is_there_when_the_study_is_opened_again(tmp_path: Path) -> None:
    with Study(tmp_path, SPACE) as study:
        number = study.start(FIRST)
        study.finish(result(number, FIRST))
        study.finish(result(number, FIRST, "trained", 0.6))
        study.finish(result(number, FIRST, "full", 0.7))
    with Study(tmp_path, SPACE) as again:
        assert again.results("inherited") == [result(0, FIRST)]
        assert again.result("trained", 0) == result(0, FIRST, "trained", 0.6)
        assert again.result("full", 0) == result(0, FIRST, "full", 0.7)
        assert again.running == {}


def test_candidates_that_a_dead_driver_left_are_put_back_under_their_numbers(tmp_path: Path) -> None:
    with Study(tmp_path, SPACE) as study:
        study.start(FIRST)
        study.start(SECOND)
        study.finish(result(0, FIRST))
    with Study(tmp_path, SPACE) as again:
        assert again.running == {1: SECOND}
        again.finish(result(1, SECOND))
        assert again.start(THIRD) == 2
    with Study(tmp_path, SPACE) as last:
        assert [entry.trial for entry in last.results("inherited")] == [0, 1]
        assert last.running == {2: THIRD}


def test_a_driver_that_died_before_the_candidate_ran_loses_nothing(tmp_path: Path) -> None:
    with Study(tmp_path, SPACE) as study:
        study._studies["inherited"].enqueue_trial(FIRST.as_dict())
    with Study(tmp_path, SPACE) as again:
        assert again.running == {0: FIRST}
        again.finish(result(0, FIRST))
        assert again.start(SECOND) == 1


def test_infeasible_and_failed_stay_apart(tmp_path: Path) -> None:
    with Study(tmp_path, SPACE) as study:
        study.reject_infeasible(FIRST, "too large")
        number = study.start(SECOND)
        study.fail(Job(number, SECOND, "inherited", 0, 1, 1), "it broke")
        number = study.start(THIRD)
        study.finish(result(number, THIRD))
        study.fail(Job(number, THIRD, "full", 9, 1, 1), "diverged")
        expected = study.rejections
    with Study(tmp_path, SPACE) as again:
        assert again.rejections == expected
        assert [(entry.trial, entry.stage, entry.status) for entry in expected] == [
            (0, "inherited", "infeasible"),
            (1, "inherited", "failed"),
            (2, "full", "failed"),
        ]
        assert set(again.architectures()) == {FIRST, SECOND, THIRD}
        write_results(tmp_path / "results.csv", again)
    rows = (tmp_path / "results.csv").read_text().splitlines()
    assert len(rows) == 5
    assert sum("infeasible" in row for row in rows) == 1 and sum("failed" in row for row in rows) == 2


@pytest.mark.parametrize("torn", [b'{"op_code": 4, "wor', b"{", b"\x00\x00"])
def test_a_torn_last_line_is_cut_off_and_nothing_before_it(tmp_path: Path, torn: bytes) -> None:
    with Study(tmp_path, SPACE) as study:
        study.finish(result(study.start(FIRST), FIRST))
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(torn)
    with Study(tmp_path, SPACE) as again:
        assert again.results("inherited") == [result(0, FIRST)]
        again.finish(result(again.start(SECOND), SECOND))
    with Study(tmp_path, SPACE) as last:
        assert len(last.results("inherited")) == 2


def test_a_second_driver_is_refused(tmp_path: Path) -> None:
    with Study(tmp_path, SPACE), pytest.raises(StudyError, match=r"another process works on this run \(process \d+\)"):
        Study(tmp_path, SPACE)
    Study(tmp_path, SPACE).close()


def test_scores_of_different_stages_are_in_different_optuna_studies(tmp_path: Path) -> None:
    with Study(tmp_path, SPACE) as study:
        study.finish(result(study.start(FIRST), FIRST, score=0.9))
        study.finish(result(0, FIRST, "full", 0.4))
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / JOURNAL)))
    assert optuna.load_study(study_name="full", storage=storage).best_value == 0.4
    assert optuna.load_study(study_name="inherited", storage=storage).best_value == 0.9
