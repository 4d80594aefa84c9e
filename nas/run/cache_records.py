"""Record which runs use which folders of the feature cache, so that abandoned folders can be recognized.

Each folder of features has a folder of records next to it, with one small file for each run, so that several runs can
record themselves at once.
"""

import hashlib
import json
import time
from pathlib import Path

from nas.common.boundary import read_json, reading
from nas.common.errors import StudyError
from nas.common.files import write_atomically

_RECORDS = ".runs"


def records_folder(features: Path) -> Path:
    """Return the folder with the records of a folder of features."""
    return features.with_name(f"{features.name}{_RECORDS}")


def record_use(features: Path, run_directory: Path, now: float | None = None) -> None:
    """Record that a run uses a folder of features, or uses it again.

    Args:
        features: The folder of features in the cache.
        run_directory: The directory of the run, or of the comparison.
        now: The time in seconds since the epoch; None for the present.

    Raises:
        OSError: If it cannot be recorded.
    """
    run = str(run_directory.absolute())
    folder = records_folder(features)
    folder.mkdir(exist_ok=True)
    name = hashlib.sha256(run.encode(errors="surrogateescape")).hexdigest()[:16]
    values = {"run": run, "time": time.time() if now is None else now}
    write_atomically(folder / f"{name}.json", json.dumps(values).encode())


def recorded_runs(features: Path) -> list[Path] | None:
    """Return the directories of the runs on record, those that no longer exist included; None without a record.

    Args:
        features: The folder of features in the cache.

    Raises:
        StudyError: If a record is damaged.
    """
    paths = sorted(records_folder(features).glob("*.json"))
    found = []
    for path in paths:
        with reading(path, expected="the record of a run", error=StudyError, problem="is damaged"):
            found.append(Path(str(read_json(path, expected="the record of a run", error=StudyError)["run"])))
    return found or None
