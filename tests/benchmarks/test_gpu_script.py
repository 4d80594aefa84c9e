"""The script of the measurements on a GPU: its limits of time, and what becomes of parts that fail."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY
from tests.support.simulated_accelerator import NAME, compiler

SCRIPT = REPOSITORY / "benchmarks" / "gpu.sh"
PARTS = re.findall(r"^part (\w+) ", SCRIPT.read_text(), re.MULTILINE)


def run(*arguments: str | Path, timeout: float, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *map(str, arguments)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_limits_of_all_parts_are_ten_minutes_together() -> None:
    limits = re.findall(r'^part \w+ "\$\{GPU_SECONDS:-(\d+)\}"', SCRIPT.read_text(), re.MULTILINE)
    assert len(limits) == len(PARTS) and sum(map(int, limits)) <= 600
    assert {path.stem for path in (REPOSITORY / "benchmarks/gpu").glob("*.py")} == {*PARTS, "__init__", "part"}


def test_failed_part_does_not_stop_the_others_and_is_named(tmp_path: Path) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text(
        '#!/usr/bin/env bash\ncase $2 in *steps) exit 3 ;; *peaks) exec sleep 60 ;; esac\necho "ran $*"\n'
    )
    interpreter.chmod(0o755)
    ended = run("--short", "--device", "cpu", tmp_path / "out", timeout=50, PYTHON=str(interpreter), GPU_SECONDS="1")
    assert ended.returncode == 1, ended.stderr
    assert re.findall(r"^failed: (.*)", ended.stdout, re.MULTILINE) == [
        "steps: exit status 3",
        "peaks: stopped after 1 s",
    ]
    for name in PARTS[2:]:
        assert (
            f"ran -m benchmarks.gpu.{name} --device cpu --short --json {tmp_path / 'out'}/{name}.json" in ended.stdout
        )


@pytest.mark.parametrize("arguments", [("--fast",), ("--device",)])
def test_wrong_argument_is_one_message(arguments: tuple[str, ...]) -> None:
    ended = run(*arguments, timeout=20)
    assert ended.returncode != 0 and "expected" in ended.stderr and not ended.stdout


SIMULATED = f"{sys.executable} -m tests.support.simulated_accelerator"


@pytest.mark.long
@pytest.mark.parametrize(("device", "python"), [("cpu", sys.executable), (NAME, SIMULATED)])
def test_short_form_runs_through(device: str, python: str, tmp_path: Path) -> None:
    if device == NAME and compiler() is None:
        pytest.skip("simulated accelerator: no C++ compiler, or no headers of Python")
    ended = run("--short", "--device", device, tmp_path, timeout=1200, PYTHON=python, GPU_SECONDS="600")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    figures = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in PARTS}
    assert all(values["device"] == device and values["short"] for values in figures.values())
    assert figures["search"]["fully_trained"] > 0
    assert bool(figures["device_tests"]["outcomes"]) == bool(figures["peaks"]["cases"]) == (device == NAME)
