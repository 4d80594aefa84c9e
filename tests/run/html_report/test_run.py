"""The report of a whole search: written by the search and by the command, and its data."""

import json
import runpy
import shutil
from pathlib import Path

import pytest

from nas.cli import main
from nas.run.html_report.data import read_run_data
from nas.run.html_report.job_times import JOBS, read_job_times
from nas.run.html_report.predictions import ValidationDetails, validation_details
from tests.run.conftest import FinishedRun
from tests.support.documents import blocks
from tests.support.paths import REPOSITORY
from tests.support.project import Project


def test_search_writes_its_report_and_names_it(finished: FinishedRun) -> None:
    page = (finished.directory / "report.html").read_text()
    assert 'data-live="false"' in page and "answer (" in page and "worst" in page.lower()
    assert f"Report: {finished.directory / 'report.html'}" in finished.output
    assert "cannot be written" not in finished.output


def test_every_result_of_a_worker_has_a_line_in_the_log_of_jobs(finished: FinishedRun) -> None:
    data = read_run_data(finished.directory)
    models = sum(job.models for job in data.jobs)
    assert models >= sum(map(len, data.results.values())) > 0
    assert all(job.measured_peak_bytes and job.seconds > 0 and job.worker == 0 for job in data.jobs)
    assert data.parameters.keys() == {result.trial for result in data.results["one_shot"]}


def test_log_of_jobs_survives_a_kill_while_it_is_written(finished: FinishedRun, tmp_path: Path) -> None:
    lines = (finished.directory / JOBS).read_text().splitlines()
    (tmp_path / JOBS).write_text("\n".join([lines[0], "[1]", '{"time": "x"}', lines[1][: len(lines[1]) // 2]]))
    assert read_job_times(tmp_path) == read_job_times(finished.directory)[:1]


def test_predictions_on_validation_agree_with_the_report(finished: FinishedRun) -> None:
    data = read_run_data(finished.directory)
    found = validation_details(data)
    assert isinstance(found, ValidationDetails)
    accuracy = data.report["best"]["validation"]["accuracy"]
    assert found.error_count == round((1 - accuracy) * found.sample_count)
    assert sum(entry.samples for entry in found.details.classes) == found.sample_count
    assert found.details.confusion.trace() == found.sample_count - found.error_count
    worst = [entry.confidence - entry.truth_probability for entry in found.mistakes]
    assert worst == sorted(worst, reverse=True) and all(entry.truth != entry.guess for entry in found.mistakes)


def test_command_writes_the_report_of_a_run_elsewhere(
    finished: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished.directory / "report.html").read_bytes()
    assert main(["report", str(finished.directory), "--output", str(tmp_path / "mine.html")]) == 0
    assert capsys.readouterr().out == f"Report: {tmp_path / 'mine.html'}\n"
    assert "Final evaluation" in (tmp_path / "mine.html").read_text()
    assert (finished.directory / "report.html").read_bytes() == before
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: holds no run; expected a file config.yaml in it\n"


def test_moved_data_leaves_sections_empty_but_for_the_reason(copy: Path, project: Project, tmp_path: Path) -> None:
    manifest = tmp_path / "changed.csv"
    lines = project.manifest.read_text().splitlines()
    manifest.write_text("\n".join(lines[:1] + list(reversed(lines[1:]))))
    assert main(["report", str(copy), "--data", str(manifest), "--images", str(project.images)]) == 0
    assert "no longer the one" in (copy / "report.html").read_text()


def test_example_of_the_documentation_runs(
    finished: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = blocks(REPOSITORY / "docs" / "report.md", "python")
    (tmp_path / "runs").mkdir()
    shutil.copytree(finished.directory, tmp_path / "runs" / "demo")
    (tmp_path / "example.py").write_text(example)
    monkeypatch.chdir(tmp_path)
    assert json.loads(runpy.run_path("example.py")["figure"].to_json())["data"]
