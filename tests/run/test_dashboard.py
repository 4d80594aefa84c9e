"""The dashboard: what optuna-dashboard shows of a run, while it runs and afterwards; and the command."""

import io
import json
import re
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIServer
from wsgiref.util import setup_testing_defaults

import optuna_dashboard  # type: ignore[import-untyped]
import pytest

from nas.cli import main
from nas.common.errors import StudyError
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.run.dashboard import runs_to_view
from nas.run.directory import read_run
from nas.search.trial import STAGES
from nas.storage.backends.journal import JOURNAL
from nas.storage.study import Study
from nas.storage.viewing import ReadOnlyStorage, RunToView
from tests.run.conftest import FinishedRun
from tests.support.factories import make_result
from tests.support.study_writer import SPACE


def call(storage: ReadOnlyStorage, path: str, *, method: str = "GET", body: Any = None) -> tuple[str, Any]:
    """Call the dashboard's program without a server; returns the status and the answer."""
    content = json.dumps(body).encode()
    environment: dict[str, Any] = {"PATH_INFO": path.partition("?")[0], "QUERY_STRING": path.partition("?")[2]}
    setup_testing_defaults(environment)
    environment |= {"REQUEST_METHOD": method, "CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(content))}
    environment |= {"wsgi.input": io.BytesIO(content), "wsgi.errors": io.StringIO()}
    statuses: list[str] = []
    answer = optuna_dashboard.wsgi(storage)(environment, lambda status, headers, error=None: statuses.append(status))
    text = b"".join(answer)
    return statuses[0], json.loads(text) if text.startswith(b"{") else text


def studies_of(storage: ReadOnlyStorage) -> dict[str, Any]:
    """Return the details of every study, by name."""
    status, listed = call(storage, "/api/studies")
    assert status.startswith("200")
    return {
        study["study_name"]: call(storage, f"/api/studies/{study['study_id']}?after=0")[1]
        for study in listed["study_summaries"]
    }


@pytest.fixture
def view() -> Any:
    """Opens runs to view, and closes them after the test."""
    opened: list[ReadOnlyStorage] = []

    def open_runs(*runs: RunToView) -> ReadOnlyStorage:
        opened.append(ReadOnlyStorage(runs))
        return opened[-1]

    yield open_runs
    for storage in opened:
        storage.close()


View = Callable[..., ReadOnlyStorage]


def test_studies_have_readable_names_axes_and_curves(finished: FinishedRun, view: View) -> None:
    studies = studies_of(view(*runs_to_view(finished.directory)))
    name = read_run(finished.directory).identity
    assert re.fullmatch(r"little-\d{4}-\d\d-\d\d-\d{6}-\d{3}", name)
    assert list(studies) == [f"{name}/{stage}" for stage in STAGES]
    for study in studies.values():
        assert study["objective_names"] == ["accuracy"]
    shown = studies[f"{name}/one_shot"]
    space = {entry["name"]: entry["distribution"]["type"] for entry in shown["union_search_space"]}
    assert space["fusion_layer"] == space["mapping_width (units)"] == "IntDistribution"
    assert {name for name in space if name.endswith("prompts (tokens)")} == {
        "query_prompts (tokens)",
        "query_context_prompts (tokens)",
        "fusion_context_prompts (tokens)",
    }
    sortable = {entry["key"] for entry in shown["union_user_attrs"] if entry["sortable"]}
    assert {"accuracy", "cross_entropy", "peak_memory (MiB)"} <= sortable
    full = studies[f"{name}/full"]
    assert full["has_intermediate_values"]
    curve = full["trials"][0]["intermediate_values"]
    assert len(curve) > 3 and all(entry["value"] > 0 for entry in curve)


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_results_that_arrive_later_are_shown(tmp_path: Path, kind: str, view: View) -> None:
    url = None if kind == "journal" else f"sqlite:///{tmp_path / 'study.db'}"
    first, second = PMFArchitecture(1, 1, 1, 1, 1), PMFArchitecture(1, 2, 1, 1, 1)
    with Study(tmp_path, SPACE, name="run", storage=url) as study:
        study.finish(make_result(trial=study.start(first), architecture=first, score=0.25), constraints=[0.5])
        storage = view(RunToView(tmp_path, "run", url))
        assert [trial["values"] for trial in studies_of(storage)["run/one_shot"]["trials"]] == [[0.25]]
        assert [trial["constraints"] for trial in studies_of(storage)["run/one_shot"]["trials"]] == [[0.5]]
        study.finish(make_result(trial=study.start(second), architecture=second, score=0.75))
        assert [trial["values"] for trial in studies_of(storage)["run/one_shot"]["trials"]] == [[0.25], [0.75]]


def test_nothing_can_be_changed(tmp_path: Path, view: View) -> None:
    with Study(tmp_path, SPACE, name="run") as study:
        study.start(PMFArchitecture(1, 1, 1, 1, 1))
    before = (tmp_path / JOURNAL).read_bytes()
    storage = view(RunToView(tmp_path, "run", None))
    for path, method, body in (
        ("/api/studies/0", "DELETE", {"remove_associated_artifacts": False}),
        ("/api/studies/0/note", "PUT", {"version": 1, "body": "text"}),
        ("/api/studies", "POST", {"study_name": "another", "directions": ["minimize"]}),
    ):
        status, _ = call(storage, path, method=method, body=body)
        assert status.startswith("500"), (path, status)
    with pytest.raises(StudyError, match="reading only"):
        storage.set_trial_user_attr(0, "key", 1)
    assert (tmp_path / JOURNAL).read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {JOURNAL, "driver.lock", "writes.log"}


def test_runs_of_several_arms_are_shown_side_by_side(tmp_path: Path, view: View) -> None:
    runs, scores = [], {"vit+bert": [0.25, 0.5], "vit+electra": [0.75]}
    for name, values in scores.items():
        (tmp_path / name).mkdir()
        with Study(tmp_path / name, SPACE, name=name[::-1]) as study:
            for width, value in enumerate(values, start=1):
                architecture = PMFArchitecture(1, 1, 1, 1, width)
                study.finish(make_result(trial=study.start(architecture), architecture=architecture, score=value))
        runs.append(RunToView(tmp_path / name, name[::-1], None, title=name))
    storage = view(*runs)
    studies = studies_of(storage)
    assert list(studies) == [f"{name}/{stage}" for name in scores for stage in STAGES]
    ids = []
    for name, values in scores.items():
        trials = studies[f"{name}/one_shot"]["trials"]
        assert [trial["values"][0] for trial in trials] == values
        ids += [trial["trial_id"] for trial in trials]
        for trial in trials:
            assert storage.get_trial(trial["trial_id"]).value == trial["values"][0]
    assert len(set(ids)) == 3


@pytest.fixture
def ended_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Ctrl-C end every server before its first request."""

    def serve_forever(self: WSGIServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(WSGIServer, "serve_forever", serve_forever)


@pytest.mark.usefixtures("ended_at_once")
def test_command_names_the_address_of_this_machine_and_ends_with_ctrl_c(
    finished: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dashboard", str(finished.directory), "--port", "0"]) == 0
    assert re.fullmatch(
        rf"Dashboard of {finished.directory}: http://127\.0\.0\.1:\d+/ \(Ctrl-C ends it\)\n", capsys.readouterr().out
    )
    assert main(["dashboard", str(finished.directory), "--port", "0", "--host", "0.0.0.0"]) == 0
    assert "Anyone who reaches this address can read the results" in capsys.readouterr().out


@pytest.mark.usefixtures("ended_at_once")
def test_port_in_use_is_a_short_error(finished: FinishedRun, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["dashboard", str(finished.directory), "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --host 127.0.0.1 --port {port}: cannot be listened at: ") and "--port 0" in error


def test_missing_library_is_named_with_its_remedy(
    finished: FinishedRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    assert main(["dashboard", str(finished.directory)]) == 2
    error = capsys.readouterr().err
    assert "optuna-dashboard is not installed" in error and "pip install 'pmf-nas[dashboard]'" in error


def test_directory_without_a_run_is_a_short_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
