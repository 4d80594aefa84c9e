"""Search the demo on a GPU with two workers that share it, under a tight memory budget.

The budget holds the largest candidate of the space beside the smallest, but not two of the largest. Stated are the
results of each stage, what failed, and how measured peaks compare with predicted ones, those of the context and the
gaps of the allocator included.

Run: python -m benchmarks.gpu.search [--device cuda] [--short] [--json FILE]
"""

import csv
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.gpu.part import Part, run_part
from benchmarks.models import DEMO, few_samples
from nas.cli import main as run_program
from nas.common.devices import check_kind
from nas.common.errors import ExecutionError
from nas.config.load import load_config
from nas.run.prepare import predict_memory

_SECONDS = 70
"""The budget of a search; features, export and reports come on top."""
_SHORT: dict[str, Any] = {
    "recipe": {"epochs": 3},
    "supernet": {"steps": 2, "checkpoint_steps": 2, "architectures_per_step": 3},
    "search": {"round_size": 2, "promotion_fraction": 0.5, "short_training_steps": 1, "finalists": 1, "rerun_seeds": 0},
    "space": {"fusion_layer": [5], "query_prompts": [1, 2], "mapping_width": [48, 96]},
    "budget": {"time": None, "trials": 2},
}


def measure(part: Part) -> bool:
    """Search, state the results, and return whether something is wrong with them."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        search_file = write_search_file(directory, part)
        memory_bytes = _tight_budget(search_file, part.device)
        run = directory / "run"
        arguments = [
            *("search", str(search_file), "--device", str(part.device.type), "--workers", str(_workers(part.device))),
            *("--run-dir", str(run), "--cache-dir", str(directory / "cache")),
            *("--memory-budget", f"{memory_bytes // 2**20}MiB"),
        ]
        started = time.monotonic()
        status = _run(arguments, part.device)
        figures: dict[str, Any] = {
            "memory_budget_bytes": memory_bytes,
            "seconds": time.monotonic() - started,
            "status": status,
        }
        if status == 0:
            figures |= _results(run / "results.csv")
    part.write(figures)
    for key, value in figures.items():
        print(f"{key}: {value}")
    return status != 0 or figures["fully_trained"] == 0 or figures["failed"] > 0


def write_search_file(directory: Path, part: Part) -> Path:
    """Write a search file that shortens the demo."""
    values: dict[str, Any] = {"extends": str(DEMO), "budget": {"time": f"{_SECONDS}s"}}
    if part.is_short:
        values |= {**_SHORT, "data": {"manifest": few_samples(directory).data.manifest}}
    path = directory / "search.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def _tight_budget(search_file: Path, device: torch.device) -> int:
    """Return the memory in which the largest and the smallest candidate fit at the same time, in bytes."""
    config = load_config(search_file)
    memory, _ = predict_memory(config, source=str(search_file), device=device)
    most = memory.predict(config.space.largest).peak_bytes
    return most + min(memory.predict(entry).peak_bytes for entry in (config.space.smallest, config.space.largest))


def _workers(device: torch.device) -> int:
    """Return the number of workers: two, or none of their own on a device that Ray does not know."""
    try:
        check_kind(device.type)
    except ExecutionError:
        return 0
    return 2


def _run(arguments: list[str], device: torch.device) -> int:
    """Run the search in a process of its own, or in this one on a device that only this one has; return the status."""
    if _workers(device) == 0:
        return run_program(arguments)
    command = [sys.executable, str(DEMO.parent.parent / "run_search.py"), *arguments]
    return subprocess.run(command, check=False).returncode


def _results(path: Path) -> dict[str, Any]:
    """Return the numbers of results and of failures, and the ratios of measured to predicted peaks."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    stages = Counter(row["stage"] for row in rows if row["status"] == "finished")
    ratios = [
        int(row["measured_peak_bytes"]) / int(row["predicted_peak_bytes"])
        for row in rows
        if row["status"] == "finished" and row["stage"] != "one_shot" and int(row["predicted_peak_bytes"] or 0)
    ]
    return {
        "by_stage": dict(stages),
        "fully_trained": stages["full"],
        "failed": sum(row["status"] == "failed" for row in rows),
        "median_measured_of_predicted": statistics.median(ratios) if ratios else None,
        "largest_measured_of_predicted": max(ratios, default=None),
    }


def main(arguments: list[str] | None = None) -> int:
    """Search, and return the exit status."""
    return run_part(__doc__, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
