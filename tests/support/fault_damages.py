"""Damages to the files of a run directory and of the feature cache."""

import json
import shutil
from pathlib import Path

from nas.run.directory import CONFIG
from nas.search.trial import Result
from tests.support.fault_bench import Bench
from tests.support.fault_records import MODELS, Damage
from tests.support.real_driver import PHASES


def quick_damages(finished: Path) -> list[Damage]:
    """Return the damages that a driver detects within seconds."""
    return [
        Damage(
            "journal, flipped bytes",
            finished,
            [],
            lambda run, cache: flip(run / "journal.log"),
            "journal.log: line ",
            lambda run, original: keep_whole_lines(run / "journal.log", original / "journal.log"),
            notice="missing record(s) restored from",
            mended_options=("--accept-changed",),
        ),
        Damage(
            "journal, last lines lost",
            finished,
            [],
            lambda run, cache: keep_half_of_lines(run / "journal.log"),
            "journal.log: does not hold what this run has stored",
            notice="missing record(s) restored from",
            mended_options=("--accept-changed",),
        ),
        Damage(
            "config.yaml, cut off",
            finished,
            [],
            lambda run, cache: cut(run / CONFIG),
            CONFIG,
            lambda run, original: restore(run, original, CONFIG),
        ),
    ]


def other_damages(bench: Bench, finished: Path) -> list[Damage]:
    """Return the damages to searches that were killed half-way."""
    early, early_results = bench.state("killed in supernet", PHASES["supernet"], "supernet_checkpoint.pt")
    late, late_results = bench.state("killed in candidates", r"^#5 screened")
    best = Result.from_dict(json.loads((finished / "report.json").read_text())["best"]["result"])
    weights = f"full/{best.key.name}.safetensors"

    def flip_best(run: Path, _cache: Path) -> None:
        flip(run / weights)
        for model in MODELS:  # so that the weights are needed
            shutil.rmtree(run / model)

    return [
        Damage("journal, torn last line", late, late_results, lambda run, cache: append(run / "journal.log", b"\0\0{")),
        Damage(
            "features, flipped bytes",
            late,
            late_results,
            lambda run, cache: flip(largest(cache)),
            notice="rebuilding it",
        ),
        Damage("features, cut off", late, late_results, lambda run, cache: cut(largest(cache)), notice="rebuilding it"),
        *checkpoint_damages(early, early_results),
        *(
            Damage(
                f"supernet, {name}",
                late,
                late_results,
                lambda run, cache, harm=harm: harm(run / "supernet.safetensors"),  # type: ignore[misc]
                "supernet.safetensors",
                lambda run, original: restore(run, original, "supernet.safetensors"),
            )
            for name, harm in (("flipped bytes", flip), ("cut off", cut))
        ),
        Damage(
            "weights of the answer, flipped bytes",
            finished,
            [],
            flip_best,
            weights,
            lambda run, original: restore(run, original, weights),
        ),
        Damage(
            "report.json, an edited number",
            finished,
            [],
            lambda run, cache: replace(run / "report.json", b"0.", b"1."),
            "report.json",
            lambda run, original: (run / "report.json").unlink(),
        ),
        Damage("frozen weights, flipped bytes", late, late_results, lambda run, cache: flip(run / "image_encoder.pt")),
        Damage("results.csv, cut off", late, late_results, lambda run, cache: cut(run / "results.csv")),
        *(
            Damage(
                f"{name}, cut off",
                finished,
                [],
                lambda run, cache, name=name: cut(run / name),  # type: ignore[misc]
                name,
                lambda run, original, name=name: restore(run, original, name),  # type: ignore[misc]
            )
            for name in ("time.json", "report.json", "default.json", "linear.json", "bilinear.json")
        ),
    ]


def checkpoint_damages(state: Path, reported: list[tuple[str, str, str]]) -> list[Damage]:
    """Return the damages to the checkpoint of a supernet training.

    Args:
        state: The run directory of a search that was killed during the training.
        reported: The results that its driver reported.
    """
    return [
        Damage(
            f"supernet checkpoint, {name}",
            state,
            reported,
            lambda run, cache, harm=harm: harm(run / "supernet_checkpoint.pt"),  # type: ignore[misc]
            "supernet_checkpoint.pt",
            lambda run, original: (run / "supernet_checkpoint.pt").unlink(),
        )
        for name, harm in (("flipped bytes", flip), ("cut off", cut))
    ]


def flip(path: Path) -> None:
    """Change some bytes in the middle of a file."""
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 8):
        content[place] ^= 0x15
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Keep the first half of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def append(path: Path, content: bytes) -> None:
    """Append bytes to a file."""
    with path.open("ab") as file:
        file.write(content)


def keep_whole_lines(path: Path, original: Path) -> None:
    """Keep the lines before the first that differs from the original."""
    pairs = zip(path.read_bytes().split(b"\n"), original.read_bytes().split(b"\n"), strict=False)
    kept = []
    for line, before in pairs:
        if line != before:
            break
        kept.append(line + b"\n")
    path.write_bytes(b"".join(kept))


def keep_half_of_lines(path: Path) -> None:
    """Keep the first half of the lines of a file, each whole."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: len(lines) // 2]))


def replace(path: Path, old: bytes, new: bytes) -> None:
    """Replace the first occurrence of some bytes in a file."""
    path.write_bytes(path.read_bytes().replace(old, new, 1))


def restore(run: Path, original: Path, name: str) -> None:
    """Copy a file of the original run directory back."""
    shutil.copy(original / name, run / name)


def largest(cache: Path) -> Path:
    """Return the largest file of features."""
    return max(cache.rglob("*.npy"), key=lambda path: path.stat().st_size)
