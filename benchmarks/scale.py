"""How time and memory of a search grow with the number of samples, and the driver's work with the number of nodes.

**Samples.** A data set is generated for each number of samples: pictures of 16×16 in eight archives, texts of eight
words, and encoders of two tiny layers. A fresh process then does what a search does with the samples, with the code of
the search: read, compare, split, hash, decode, tokenize, plan and build the features, read one epoch of batches,
evaluate. For each phase: microseconds of processor time for each sample, the slope (the logarithm of the ratio of
processor times over that of the numbers of samples, so 1 is linear and 2 is quadratic) between the two largest numbers,
and the highest private memory of the process, without files that are mapped into memory. Two more processes open the
same images and features and read some; their private memory is stated as well.

The benchmark fails if a phase of at least a second has a slope above `--most-slope`, or if the driver's memory,
continued in a straight line, exceeds 2 GiB at a million samples. Everything that it writes is deleted.

**Nodes.** Clusters of simulated nodes on this machine (`ray.cluster_utils`), each with two workers that import no torch
and end every job at once: the driver's processor time for a trial, without what starts and ends the search, and the
private memory of all processes together. It fails if the time is more than 1.5 times that on the fewest nodes, or the
memory exceeds 12 GiB.

Run: python -m benchmarks.scale [--samples 10000 30000] [--nodes 1 2 4 8] [--json FILE] [--quick]
"""

import argparse
import math
import multiprocessing
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.models import write_figures
from benchmarks.scale_data.archives import write_data_set
from benchmarks.scaling.nodes import measure_nodes
from benchmarks.scaling.samples import measure_samples, read_alone
from nas.common.units import format_bytes
from nas.run.tables import text_table

_QUICK = (10_000, 30_000)
_QUICK_SLOPE = 1.6
"""Far from quadratic, whatever else the machine does meanwhile."""
_MILLION = 1_000_000
_MOST_BYTES = 2 * 2**30
_READING_PROCESSES = 2
_MOST_RATIO = 1.5
_MOST_CLUSTER_BYTES = 12 * 2**30
_LEAST_SECONDS = 1.0
"""Shorter phases have no slope: what does not depend on the number of samples is a large part of them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="*", default=[10_000, 100_000, _MILLION])
    parser.add_argument("--nodes", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--trials", type=int, default=1_000)
    parser.add_argument("--most-slope", type=float, default=1.2)
    parser.add_argument("--directory", type=Path, help="folder for the data (default: TMPDIR)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="10,000 and 30,000 samples, no nodes")
    options = parser.parse_args()
    counts = sorted(_QUICK if options.quick else options.samples)
    found = [measured(count, options.directory) for count in counts]
    problems = []
    if found:
        print(phase_table(found))
        print(memory_text(found), flush=True)
        problems = sample_problems(found, _QUICK_SLOPE if options.quick else options.most_slope)
    nodes = [] if options.quick else [measure_nodes(count, options.trials) for count in sorted(options.nodes)]
    if nodes:
        print(node_table(nodes))
        problems += node_problems(nodes)
    write_figures(options.json, {"samples": found, "nodes": nodes})
    if problems:
        raise SystemExit("\n".join(problems))


def measured(count: int, parent: Path | None) -> dict[str, Any]:
    """Return the figures of one number of samples, each process a fresh one; see `measure_samples`."""
    context = multiprocessing.get_context("fork")  # what is imported here is not imported again
    directory = Path(tempfile.mkdtemp(prefix="scale-", dir=parent))
    try:
        with ProcessPoolExecutor(1, mp_context=context) as process:
            search_file = process.submit(write_data_set, directory / "data", count).result()
        with ProcessPoolExecutor(1, mp_context=context) as process:
            found = process.submit(measure_samples, count, search_file, directory / "cache").result()
        with ProcessPoolExecutor(_READING_PROCESSES, mp_context=context) as processes:
            reading = [
                processes.submit(read_alone, search_file, Path(found["store"])) for _ in range(_READING_PROCESSES)
            ]
            return {
                **found,
                "reading_processes": [process.result() for process in reading],
                "disk_bytes": sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()),
            }
    finally:
        shutil.rmtree(directory)


def slope(smaller: Mapping[str, Any], larger: Mapping[str, Any], phase: int) -> float | None:
    """Return how the processor time of a phase grows: 1 is linear; None for a short phase."""
    before, after = (figures["phases"][phase]["processor_seconds"] for figures in (smaller, larger))
    if after < _LEAST_SECONDS or before <= 0:
        return None
    return math.log(after / before) / math.log(larger["samples"] / smaller["samples"])


def peak_bytes(figures: Mapping[str, Any]) -> int:
    """Return the highest private memory of the driver in all phases."""
    return max(int(phase["peak_bytes"]) for phase in figures["phases"])


def bytes_per_sample(found: Sequence[Mapping[str, Any]]) -> float:
    """Return by how much the driver's memory grows with every sample, between the two largest numbers."""
    if len(found) == 1:
        return (peak_bytes(found[0]) - int(found[0]["start_bytes"])) / float(found[0]["samples"])
    before, after = (peak_bytes(figures) - int(figures["start_bytes"]) for figures in found[-2:])
    return (after - before) / float(found[-1]["samples"] - found[-2]["samples"])


def bytes_at_a_million(found: Sequence[Mapping[str, Any]]) -> float:
    """Return the driver's memory at a million samples, in a straight line from the largest number measured."""
    return peak_bytes(found[-1]) + bytes_per_sample(found) * max(_MILLION - int(found[-1]["samples"]), 0)


def sample_problems(found: Sequence[Mapping[str, Any]], most_slope: float) -> list[str]:
    """Return what grows too fast."""
    problems = []
    for index, phase in enumerate(found[-1]["phases"]):
        value = slope(found[-2], found[-1], index) if len(found) > 1 else None
        if value is not None and value > most_slope:
            problems.append(f"{phase['name']}: the slope is {value:.2f}; expected at most {most_slope}")
    at_a_million = bytes_at_a_million(found)
    if at_a_million > _MOST_BYTES:
        problems.append(f"memory at {_MILLION:,}: {format_bytes(int(at_a_million))}; expected at most 2 GiB")
    return problems


def phase_table(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of all phases."""
    rows = []
    for index, phase in enumerate(found[-1]["phases"]):
        each = [figures["phases"][index] for figures in found]
        value = slope(found[-2], found[-1], index) if len(found) > 1 else None
        rows.append(
            (
                phase["name"],
                *(f"{entry['seconds']:.1f}" for entry in each),
                *(
                    f"{1e6 * entry['processor_seconds'] / figures['samples']:.1f}"
                    for entry, figures in zip(each, found, strict=True)
                ),
                "" if value is None else f"{value:.2f}",
                *(format_bytes(entry["peak_bytes"]) for entry in each),
            )
        )
    counts = [f"{figures['samples']:,}" for figures in found]
    header = (
        "phase",
        *(f"s at {count}" for count in counts),
        *(f"processor µs a sample at {count}" for count in counts),
        "slope",
        *(f"peak at {count}" for count in counts),
    )
    return text_table(header, rows)


def node_table(nodes: Sequence[Mapping[str, float]]) -> str:
    """Return the table of the clusters."""
    rows = [
        (
            f"{figures['nodes']:.0f}",
            f"{figures['processor_milliseconds']:.2f}",
            f"{figures['processor_milliseconds'] / nodes[0]['processor_milliseconds']:.2f}",
            f"{figures['milliseconds']:.2f}",
            format_bytes(int(figures["most_bytes"])),
        )
        for figures in nodes
    ]
    header = ("nodes", "driver's processor ms a trial", "ratio", "ms a trial", "memory of all processes")
    return text_table(header, rows)


def node_problems(nodes: Sequence[Mapping[str, float]]) -> list[str]:
    """Return what grows too fast with the number of nodes."""
    problems, least = [], nodes[0]["processor_milliseconds"]
    for figures in nodes:
        ratio = figures["processor_milliseconds"] / least
        if ratio > _MOST_RATIO:
            problems.append(f"{figures['nodes']:.0f} nodes: {ratio:.2f} times the time; expected at most {_MOST_RATIO}")
        if figures["most_bytes"] > _MOST_CLUSTER_BYTES:
            problems.append(f"{figures['nodes']:.0f} nodes: {format_bytes(int(figures['most_bytes']))} of memory")
    return problems


def memory_text(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the lines about memory and disk space."""
    lines = []
    for figures in found:
        reading = figures["reading_processes"]
        opened = max(process["opened"] - process["start"] for process in reading)
        read = max(process["read"] - process["start"] for process in reading)
        lines.append(
            f"{figures['samples']:,} samples: driver {format_bytes(peak_bytes(figures))} at most, of them "
            f"{format_bytes(figures['start_bytes'])} before it reads anything; each of {len(reading)} reading "
            f"processes {format_bytes(opened)} for archives and features, {format_bytes(read)} after reading; "
            f"{format_bytes(figures['disk_bytes'])} on disk"
        )
    lines.append(
        f"driver: {bytes_per_sample(found):,.0f} bytes a sample; at {_MILLION:,} samples "
        f"{format_bytes(int(bytes_at_a_million(found)))}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
