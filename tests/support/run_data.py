"""A factory of the content of run directories, for tests of the report."""

import random
from pathlib import Path
from typing import Any

from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.run.history import HistoryPoint
from nas.run.html_report.data import RunData
from nas.run.html_report.job_times import JobTime
from nas.run.html_report.summary import RunSummary
from nas.search.keys import DefaultKey, LinearKey
from nas.search.space import EncoderSizes
from nas.search.trial import Result, Stage
from tests.support.factories import make_result
from tests.support.search_file import make_search_config

SIZES = EncoderSizes(6, 6, 64, 48)
MEBIBYTE = 1024**2
HOSTILE = "</script><script>alert(1)</script><b>\"bold\" & 'quoted'</b>"
"""A text that would be markup in many places, if it were not escaped."""


def make_architecture(random: random.Random) -> PMFArchitecture:
    """Return a random architecture that fits `SIZES`."""
    choose = random.choice
    return PMFArchitecture(choose([3, 4, 5]), choose([1, 2, 4]), choose([0, 2, 4]), choose([0, 4]), choose([48, 96]))


def make_results(count: int) -> dict[Stage, list[Result]]:
    """Return the results of a search: all candidates screened, every fifth trained briefly, every tenth completely."""
    generator = random.Random(7)
    found: dict[Stage, list[Result]] = {"one_shot": [], "short": [], "full": []}
    for trial in range(count):
        architecture = make_architecture(generator)
        score = 0.3 + 0.02 * architecture.fusion_layer + 0.05 * generator.random()
        stages: list[tuple[Stage, int, float]] = [("one_shot", 1, 0.0), ("short", 5, 0.1), ("full", 10, 0.2)]
        for stage, every, gain in stages:
            if trial % every == 0:
                value = score + gain
                found[stage].append(
                    make_result(
                        trial=trial,
                        architecture=architecture,
                        stage=stage,
                        score=value,
                        metrics={"accuracy": value, "cross_entropy": 2 - value},
                        predicted_peak_bytes=(500 + architecture.value_at("mapping_width", 0)[0]) * MEBIBYTE,
                        measured_peak_bytes=490 * MEBIBYTE,
                        latency_seconds=0.01 + 0.001 * architecture.fusion_layer,
                    )
                )
    return found


def make_jobs(count: int) -> list[JobTime]:
    """Return jobs of two workers, which run one after another."""
    return [
        JobTime(
            time=1_000_000.0 + 10 * (index // 2) + 10,
            seconds=9.0,
            device="host",
            worker=index % 2,
            model=f"#{index}",
            stage="one_shot" if index % 5 else "full",
            models=1,
            predicted_peak_bytes=(500 + index % 7) * MEBIBYTE,
            granted_bytes=700 * MEBIBYTE,
            measured_peak_bytes=None if index == 3 else 480 * MEBIBYTE,
        )
        for index in range(count)
    ]


def make_curve(trial: int, steps: int) -> list[HistoryPoint]:
    """Return the losses of a full training of some steps, and its evaluation."""
    place = (str(trial), "full", 7)
    losses = [
        HistoryPoint(1.0, *place, step, steps, step / 10, "train", "loss", 2 - step / steps) for step in range(steps)
    ]
    return [*losses, HistoryPoint(2.0, *place, steps, steps, steps / 10, "validation", "accuracy", 0.6)]


def make_run_data(directory: Path, *, count: int = 40, **replaced: Any) -> RunData:
    """Return the content of the directory of a search that was stopped; `replaced` replaces fields."""
    results = make_results(count)
    solved = make_result(key=LinearKey(), stage="full", score=0.5, predicted_peak_bytes=40 * MEBIBYTE)
    default = make_result(key=DefaultKey(), stage="full", score=0.52, predicted_peak_bytes=560 * MEBIBYTE)
    values: dict[str, Any] = {
        "directory": directory,
        "config": make_search_config(),
        "class_names": ("animals", HOSTILE, "transport"),
        "results": results,
        "rejections": [],
        "simple": {"linear": solved, "default": default},
        "reruns": [],
        "phases": {"linear": 3.0, "supernet": 60.0, "candidates": 80.0, "finalists": 40.0},
        "jobs": make_jobs(12),
        "curves": [point for trial in (0, 10, 20) for point in make_curve(trial, 5)],
        "parameters": {result.trial: 1000 + 7 * result.trial for result in results["one_shot"]},
        "summary": RunSummary(
            SIZES,
            {"train": {"animals": 30, HOSTILE: 20, "transport": 10}, "validation": {"animals": 3, "transport": 4}},
            {"train": 60, "validation": 7},
            {"supernet": 70.0, "screening": 30.0, "short": 40.0, "finalists": 50.0},
        ),
        "report": {},
        "verdict": [],
        "is_running": False,
        "time": 1_000_100.0,
    }
    return RunData(**{**values, **replaced})
