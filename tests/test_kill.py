"""A real driver with real Ray workers, killed by `kill -9` in each phase of its search, and resumed."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas.runs import open_study, read_run
from tests.project import Project

REPOSITORY = Path(__file__).resolve().parent.parent
TRIAL = re.compile(r"^trial (\d+) (inherited|trained|full) accuracy=([\d.]+)", re.MULTILINE)

pytestmark = pytest.mark.slow

MOMENTS = {
    "supernet training": "supernet: ",
    "candidates running": "trial 1 ",
    "finalists": "phase: finalists",
}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "run_search.py", *map(str, arguments)]


def ray_processes() -> set[int]:
    """Processes of Ray's own programs and workers."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if text.startswith(b"ray::") or b"/raylet/raylet" in text or b"gcs_server" in text:
                found.add(int(entry.name))
    return found


@pytest.fixture(scope="module", autouse=True)
def _no_ray_is_left() -> Iterator[None]:
    """Ray's own processes notice that their driver was killed and end, if not at once."""
    before = ray_processes()
    yield
    deadline = time.monotonic() + 120
    while (left := ray_processes() - before) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_search_ends_complete_with_nothing_finished_lost(
    project: Project, tmp_path: Path, moment: str
) -> None:
    source = project.write(
        f"{moment.replace(' ', '_')}.yaml", **{"supernet.steps": 150, "recipe.epochs": 60, "search.finalists": 3}
    )
    run, log = tmp_path / "run", tmp_path / "log"
    common = ["--workers", "2", "--cache-dir", tmp_path / "cache"]
    with log.open("w") as file:
        driver = subprocess.Popen(
            command("search", source, "--run-dir", run, *common), stdout=file, stderr=file, cwd=REPOSITORY
        )
        deadline = time.monotonic() + 180
        while MOMENTS[moment] not in log.read_text() and driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    said = TRIAL.findall(log.read_text())
    assert MOMENTS[moment] in log.read_text() and "exported model" not in log.read_text()

    resumed = subprocess.run(
        command("resume", run, *common), capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "exported model" in resumed.stdout
    with open_study(run, read_run(run)) as study:
        assert [len(study.results(stage)) for stage in ("inherited", "trained", "full")] == [8, 4, 3]
        assert study.running == {} and study.rejections == []
        for trial, stage, score in said:
            kept = study.result(stage, int(trial))  # type: ignore[arg-type]
            assert kept is not None and f"{kept.score:.4f}" == score
    assert not {entry[:2] for entry in said} & {entry[:2] for entry in TRIAL.findall(resumed.stdout)}
