"""Measure how long a command takes before it does anything: `--help`, and an argument that is refused.

Both must import neither torch nor pydantic, which would take seconds. Each command runs in a fresh process; the times
are compared with those of a Python process that does nothing, in the same run.

Run: python -m benchmarks.startup [--json FILE] [--quick]
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = str(Path(__file__).resolve().parent.parent / "run_search.py")
COMMANDS = {
    "python": ["-c", "pass"],
    "--help": [PROGRAM, "--help"],
    "search --help": [PROGRAM, "search", "--help"],
    "refused argument": [PROGRAM, "resume", "runs/none", "--workers", "many"],
}


def main() -> None:
    """Print the least and the median time of each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--quick", action="store_true", help="3 processes of each command in place of 15")
    options = parser.parse_args()
    # Round by round, so that a change in the load of the machine meets all commands.
    rounds = [{name: seconds(command) for name, command in COMMANDS.items()} for _ in range(3 if options.quick else 15)]
    figures = {}
    for name in COMMANDS:
        times = [entry[name] for entry in rounds]
        figures[name] = {"least_seconds": min(times), "median_seconds": statistics.median(times)}
        print(f"{name}: {min(times):.3f} s at least, {statistics.median(times):.3f} s in the median")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def seconds(command: list[str]) -> float:
    """Return the wall-clock seconds of one process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
