"""A whole search with the search file of a published data set, on a generated one of its size and form.

The data are in folders exactly as they are distributed, with pictures of 16×16; the encoders have as many layers as the
search file expects, of hidden size 16. The search itself is the command line of the program: reading and checking the
data, cached features, the supernet, ten candidates, a full training of one epoch for the best and the default, export
and test. It fails if the search does. Everything that it writes is deleted.

Private memory is that of memory which is not shared and no mapped file: first of the driver, then of all its processes.

Run: python -m benchmarks.scale_search food101 [mm_imdb snli_ve pmf_large] [--share 0.01] [--workers 2]
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.models import write_figures
from benchmarks.scale_data.archives import write_data_set
from benchmarks.scale_data.encoders import write_encoders
from benchmarks.scale_data.food101 import write_food101
from benchmarks.scale_data.mm_imdb import write_mm_imdb
from benchmarks.scale_data.samples import scaled
from benchmarks.scale_data.snli_ve import write_snli_ve
from benchmarks.scaling.processes import tree_bytes
from nas.common.units import format_bytes
from nas.run.tables import text_table

_REPOSITORY = Path(__file__).resolve().parent.parent
_POLL_SECONDS = 1.0
_TRIALS = 10
_HELD_OUT = 5_000
_MANIFEST_SAMPLES = 60_000
_LAYERS: Mapping[str, int] = {"pmf_large": 24}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="+", choices=_WRITERS)
    parser.add_argument("--share", type=float, default=1.0, help="share of the samples (default: all)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--directory", type=Path, help="folder for the data and the run (default: TMPDIR)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="1 %% of the samples")
    options = parser.parse_args()
    share = 0.01 if options.quick else options.share
    found = [measured(name, share, options.workers, options.directory) for name in options.name]
    header = ("search file", "minutes for the data", "minutes for the search", "driver", "all processes", "disk")
    rows = [
        (
            str(figures["name"]),
            f"{figures['data_seconds'] / 60:.1f}",
            f"{figures['search_seconds'] / 60:.1f}",
            format_bytes(figures["driver_bytes"]),
            format_bytes(figures["all_bytes"]),
            format_bytes(figures["disk_bytes"]),
        )
        for figures in found
    ]
    print(text_table(header, rows))
    write_figures(options.json, {"share": share, "searches": found})


def measured(name: str, share: float, workers: int, parent: Path | None) -> dict[str, Any]:
    """Generate the data of a search file, search, and return the times and the most memory.

    Args:
        name: The name of the search file.
        share: The share of the samples.
        workers: The number of workers.
        parent: The folder for a temporary folder; None for the default.
    """
    directory = Path(tempfile.mkdtemp(prefix="scale-", dir=parent))
    try:
        started = time.monotonic()
        data = _WRITERS[name](directory, share)
        encoders = dict(zip(("image", "text"), map(str, write_encoders(directory, _LAYERS.get(name, 12))), strict=True))
        search_file = directory / "search.yaml"
        search_file.write_text(yaml.safe_dump(_search_values(name, data, encoders)), encoding="utf-8")
        data_seconds, started = time.monotonic() - started, time.monotonic()
        driver_bytes, all_bytes = _search(search_file, directory, workers)
        return {
            "name": name,
            "data_seconds": data_seconds,
            "search_seconds": time.monotonic() - started,
            "driver_bytes": driver_bytes,
            "all_bytes": all_bytes,
            "disk_bytes": sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()),
        }
    finally:
        shutil.rmtree(directory)


def _search_values(name: str, data: dict[str, Any], encoders: dict[str, str]) -> dict[str, Any]:
    """Return a search file that changes the place of the data, the encoders and the length of the search only."""
    return {
        "extends": str(_REPOSITORY / "search_spaces" / f"{name}.yaml"),
        "data": data,
        "encoders": encoders,
        "recipe": {"epochs": 1},
        "supernet": {"steps": 20, "checkpoint_steps": 10},
        "search": {
            "round_size": _TRIALS // 2,
            "promotion_fraction": 0.2,
            "short_training_steps": 2,
            "finalists": 1,
            "rerun_seeds": 0,
        },
        "budget": {"time": None, "trials": _TRIALS, "memory": "3GiB"},
    }


def _search(search_file: Path, directory: Path, workers: int) -> tuple[int, int]:
    """Run the search, and return the most private memory of the driver and of all processes together.

    Raises:
        SystemExit: If it fails; has the end of its log.
    """
    command = (sys.executable, str(_REPOSITORY / "run_search.py"), "search", str(search_file))
    options = ("--run-dir", str(directory / "run"), "--cache-dir", str(directory / "cache"), "--workers", str(workers))
    with (directory / "log").open("w") as log:
        process = subprocess.Popen((*command, *options), stdout=log, stderr=subprocess.STDOUT)
        most_driver = most_all = 0
        while process.poll() is None:
            driver, others = tree_bytes(process.pid)
            most_driver, most_all = max(most_driver, driver), max(most_all, driver + others)
            time.sleep(_POLL_SECONDS)
    if process.returncode:
        raise SystemExit(f"{search_file}: the search failed\n{(directory / 'log').read_text()[-5000:]}")
    return most_driver, most_all


def _food101(directory: Path, share: float) -> dict[str, Any]:
    write_food101(directory / "data", share)
    return {"folder": str(directory / "data"), "held_out": {"validation": scaled(_HELD_OUT, share, at_least=101)}}


def _mm_imdb(directory: Path, share: float) -> dict[str, Any]:
    write_mm_imdb(directory / "data", share)
    return {"folder": str(directory / "data")}


def _snli_ve(directory: Path, share: float) -> dict[str, Any]:
    write_snli_ve(directory / "data", share)
    return {"folder": str(directory / "data")}


def _manifest(directory: Path, share: float) -> dict[str, Any]:
    write_data_set(directory / "data", scaled(_MANIFEST_SAMPLES, share, at_least=400))
    return {
        "manifest": str(directory / "data" / "manifest.csv"),
        "images": str(directory / "data" / "images"),
        "columns": {"split": None},
        "held_out": {"validation": 0.1, "test": 0.1},
    }


_WRITERS: Mapping[str, Callable[[Path, float], dict[str, Any]]] = {
    "food101": _food101,
    "mm_imdb": _mm_imdb,
    "snli_ve": _snli_ve,
    "pmf_large": _manifest,
}


if __name__ == "__main__":
    main()
