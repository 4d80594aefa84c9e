import random
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.fuzzing.engine import KINDS
from benchmarks.fuzzing.messages import why_unclear
from benchmarks.fuzzing.outcomes import GIBIBYTE, Expectation, Outcome, fault_of
from benchmarks.fuzzing.project import build_project

VALID = Outcome(
    case=("data set", 0),
    description="nothing",
    command=("evaluate", "model"),
    status=0,
    output="accuracy: 0.500000 (4 samples)\nSearch: 3s used\n",
    errors="",
    seconds=1.0,
    grown_bytes=0,
    is_known=True,
)
CLEAR = [
    "error: /: cannot be read; expected a CSV, TSV, JSON, JSON Lines or Parquet file, got a folder",
    "error: data.csv: row 3: unknown split; expected train, validation or test, got 'tests'",
    "error: --budget: invalid value; expected a time or a number of trials, got 'soon'",
    "usage: run_search.py [-h]\nrun_search.py search: error: argument --workers: invalid value; expected auto, got 'x'",
    "error: s.yaml: 2 problems\n  - seed: invalid value; expected a whole number, got 'x'\n"
    "  - space.query_prompts: invalid value; expected at least 1, got 0",
    "error: s.yaml: 1 problem\n  - cannot be read: no such file or directory; expected a search file",
    "error: run/journal.log: is damaged; expected the study that `search` wrote; resume with --accept-changed",
]
UNCLEAR: Mapping[str, str] = {
    "": "0 messages",
    "error: a: x\nerror: b: y": "2 messages",
    "error: data.csv: KeyError: 'text'; expected a manifest": "implementation",
    "error: data.csv: row 3: <class 'int'>; expected text": "implementation",
    "error: data.csv: expected text, got '" + "9" * 5_000 + "'": "characters",
    "error: data.csv: expected text, got '\x1b[31m'": "unprintable",
    "error: something failed; expected 3, got 4": "no file",
    "error: data.csv: row 3: bad label 'x'": "not what is allowed",
    "error: data.csv: expected text": "no value",
    "error: s.yaml: 2 problems\n  - seed: expected a number, got 'x'\n  - bad value": "no file, key or row",
}


@pytest.mark.parametrize("message", CLEAR)
def test_a_complete_message_is_clear(message: str) -> None:
    assert why_unclear(message) is None


@pytest.mark.parametrize(("message", "lack"), UNCLEAR.items())
def test_what_a_message_lacks_is_named(message: str, lack: str) -> None:
    assert lack in (why_unclear(message) or "")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"output": "accuracy: 0.500000 (4 samples)\nSearch: 99s used\n"}, None),
        ({"output": "accuracy: 0.250000 (4 samples)\nSearch: 3s used\n"}, "silent"),
        ({"output": "Search: 3s used\n"}, "silent"),
        ({"output": "accuracy: 0.250000 (4 samples)\n", "errors": "warning: x has changed"}, None),
        ({"output": "accuracy: 0.250000 (4 samples)\n", "is_known": False}, None),
        ({"status": 2, "errors": CLEAR[0]}, None),
        ({"status": 2, "errors": "error: no"}, "unclear"),
        ({"status": 1, "errors": CLEAR[0]}, "tracebacks"),
        ({"status": -11}, "tracebacks"),
        ({"status": 2, "errors": f"Traceback (most recent call last)\n{CLEAR[0]}"}, "tracebacks"),
        ({"status": None}, "hangs"),
        ({"seconds": 10.5}, "hangs"),
        ({"seconds": 10.5, "command": ("search", "x")}, None),
        ({"seconds": 10.5, "patience": 2.0}, None),
        ({"seconds": 20.5, "patience": 2.0}, "hangs"),
        ({"grown_bytes": GIBIBYTE + 1}, "hangs"),
    ],
)
def test_faults_are_told_apart(changes: Mapping[str, object], fault: str | None) -> None:
    outcome = replace(VALID, **changes)  # type: ignore[arg-type]
    found = fault_of(outcome, Expectation.of([VALID]))
    assert (found and found[0]) == fault


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("model folder", "run directory")])
def test_mutations_are_the_same_for_the_same_seed(kind: str, tmp_path: Path) -> None:
    build_project(tmp_path / "base")
    described = []
    for attempt in range(2):
        shutil.copytree(tmp_path / "base", tmp_path / str(attempt))
        described.append(KINDS[kind](tmp_path / str(attempt), random.Random("5")))
    assert described[0] == described[1]
    assert described[0].description


@pytest.mark.long  # .ci/run plants faults as well, with more cases
def test_planted_faults_of_every_kind_are_found() -> None:
    command = [sys.executable, "-m", "benchmarks.fuzz", "--quick", "--seed", "0", "--case", "data set", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    for kind in ("tracebacks", "hangs", "unclear", "silent"):
        assert f"planted fault ({kind}): found" in ended.stdout, ended.stdout + ended.stderr
