"""Repeat the reference searches and compare them with their records, to the bit.

The records (`reference/tiny.json.gz`, `reference/demo.json.gz`) were made before the packages were rearranged, at
commit 053cf66, on one machine (AMD EPYC, 2 cores): seven strategies on the tiny project and evolution on the demo, each
with one worker and with two, deterministic, 60 trials, in rounds of 8. Another processor may round differently, so this
is a tool and not a test.

Run: python -m tests.e2e.reference_searches RUNS [--demo] [--strategies NAME ...]
"""

import argparse
import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml

from nas.config.load import load_config
from nas.run.directory import open_study, read_run
from nas.run.results_csv import canonical_results
from tests.support.paths import REPOSITORY
from tests.support.project import build_project
from tests.support.weights import exported_tensors

RECORDS = Path(__file__).with_name("reference")
STRATEGIES = ("evolution", "regularized_evolution", "nsga2", "tpe", "gp", "random", "grid")
WEIGHTS = ("supernet.safetensors", "best/model.safetensors", "default/model.safetensors")

TINY: dict[str, Any] = {
    "space.query_prompts": [1, 2, 3, 4],
    "space.query_context_prompts": [0, 1, 2],
    "space.fusion_context_prompts": [0, 1, 2],
    "space.mapping_width": [4, 8, 12],
    "supernet.steps": 24,
    "supernet.sampling": "sandwich",
    "supernet.architectures_per_step": 4,
    "supernet.checkpoint_steps": 10,
    "search.proxy_metric": "cross_entropy",
    "search.eval_batch": 5,
    "search.round_size": 8,
    "search.promotion_fraction": 0.25,
    "search.short_training_steps": 6,
    "search.rerun_seeds": 1,
    "search.evolution": {"population": 8, "parents": 3},
    "budget.trials": 60,
    "recipe.epochs": 2,
}
DEMO: dict[str, dict[str, Any]] = {
    "recipe": {"epochs": 1},
    "supernet": {"steps": 24, "checkpoint_steps": 12},
    "search": {
        "round_size": 8,
        "short_training_steps": 8,
        "finalists": 2,
        "rerun_seeds": 1,
        "evolution": {"population": 8},
    },
    "budget": {"time": None, "trials": 60},
}


def main() -> None:
    """Run the searches that have not been run yet, and compare all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, metavar="RUNS", help="folder of the run directories")
    parser.add_argument("--demo", action="store_true", help="evolution on the demo in place of the tiny project")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES)
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    source = write_demo_file(options.runs) if options.demo else write_tiny_project(options.runs)
    strategies = ("evolution",) if options.demo else options.strategies
    records = json.loads(gzip.decompress((RECORDS / f"{'demo' if options.demo else 'tiny'}.json.gz").read_bytes()))
    differences = 0
    for strategy in strategies:
        for workers in (1, 2):
            name = f"{strategy}-{workers}"
            search(source, options.runs / name, strategy, workers)
            differences += compare(name, summarize(options.runs / name), records[name])
    sys.exit(f"{differences} parts differ" if differences else None)


def write_tiny_project(runs: Path) -> Path:
    """Write the tiny project of the tests, on which scores differ, and its search file."""
    root = runs / "project"
    if (root / "reference.yaml").exists():
        return root / "reference.yaml"
    torch.manual_seed(0)
    return build_project(root, samples=240, colour_noise=200).write("reference.yaml", **TINY)


def write_demo_file(runs: Path) -> Path:
    """Write a shorter version of the demo's search file."""
    path = runs / "reference.yaml"
    demo = REPOSITORY / "search_spaces" / "demo.yaml"
    path.write_text(yaml.safe_dump({"extends": str(demo), "name": "reference", **DEMO}, sort_keys=False))
    load_config(path)
    return path


def search(source: Path, run: Path, strategy: str, workers: int) -> None:
    """Run one search, unless it was run before."""
    if (run / "report.json").exists():
        return
    command = [sys.executable, str(REPOSITORY / "run_search.py"), "search", str(source), "--deterministic"]
    command += ["--strategy", strategy, "--workers", str(workers), "--run-dir", str(run)]
    command += ["--cache-dir", str(run.parent / "cache")]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "RAY_worker_niceness": "0"}
    with run.with_suffix(".log").open("w") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=True)


def summarize(run: Path) -> dict[str, Any]:
    """Return everything of a run that must be equal: results in their order, weights, test metrics."""
    with open_study(run, read_run(run)) as study:
        results = [json.loads(line) for line in canonical_results(study).splitlines()]
    report = json.loads((run / "report.json").read_text())
    default = report["default"]["result"]
    return {
        "results": results,
        "weights": {name: weights_digest(run / name) for name in WEIGHTS},
        "default": {key: default[key] for key in ("score", "metrics", "seed", "architecture")},
        "test": {role: report[role]["test"] for role in ("best", "default")},
    }


def weights_digest(path: Path) -> str:
    """Return the SHA-256 of all tensors of a file, or of an exported model, names and shapes included."""
    tensors = safetensors.torch.load_file(path) if path.exists() else exported_tensors(path.parent)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(str(tuple(tensors[name].shape)).encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def compare(name: str, found: dict[str, Any], recorded: dict[str, Any]) -> int:
    """Print whether a search equals its record; returns the number of parts that differ."""
    different = [part for part in found if found[part] != recorded[part]]
    count = len(found["results"])
    print(f"{name}: {count} results, {'different: ' + ', '.join(different) if different else 'equal'}", flush=True)
    return len(different)


if __name__ == "__main__":
    main()
