"""Planned kills and damages of fault injection, expected results, and findings."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nas.run.directory import read_run, read_study
from nas.run.results_csv import canonical_results

MODELS = ("best", "default", "linear", "bilinear")
"""The folders of the exported models in a run directory."""


@dataclass
class Findings:
    """Descriptions of everything that went wrong."""

    lost: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        return {
            "lost_trials": len(self.lost),
            "differing_trials": len(self.differing),
            "unclear_errors": len(self.unclear),
        }


@dataclass(frozen=True)
class Ending:
    """The results of a finished search.

    Args:
        trials: The line of the canonical results, by stage and number.
        scores: The score as the program prints it, with three digits, by number and stage.
        models: The weights of the exported models.
    """

    trials: dict[tuple[str, int], str]
    scores: dict[tuple[str, str], str]
    models: dict[str, bytes]

    @classmethod
    def of(cls, run: Path) -> "Ending":
        lines = canonical_results(read_study(run, read_run(run))).splitlines()
        entries = [json.loads(line) for line in lines]
        default = json.loads((run / "default.json").read_text())
        scored = [entry for entry in entries if entry["status"] == "finished"]
        return cls(
            trials={(entry["stage"], entry["trial"]): line for entry, line in zip(entries, lines, strict=True)},
            scores={(str(entry["trial"]), entry["stage"]): f"{entry['score']:.3f}" for entry in scored}
            | {("default", "full"): f"{default['score']:.3f}"},
            models={
                role: b"".join(path.read_bytes() for path in sorted((run / role).glob("*.safetensors")))
                for role in MODELS
            },
        )


@dataclass(frozen=True)
class Stroke:
    """A planned kill.

    Args:
        victim: `driver`, `worker`, or a process of Ray itself.
        phase: The phase that must have begun.
        delay_share: The delay after that, as a share of the duration of the phase in the undisturbed search.
    """

    victim: str
    phase: str
    delay_share: float


@dataclass(frozen=True)
class Damage:
    """Damage to the files of a run, and its expected effect.

    Args:
        name: The name of the damage.
        state: The run directory that is copied.
        reported: The results that its driver reported.
        harm: Function that damages the copy or its cache.
        refused_by: A part of the expected error; None if the search must continue.
        mend: Function that follows the advice of the error, or restores the file from the original.
        notice: A part of the expected output of a search that continues.
        mended_options: Options of the command that continues after mending.
    """

    name: str
    state: Path
    reported: list[tuple[str, str, str]]
    harm: Callable[[Path, Path], None]
    refused_by: str | None = None
    mend: Callable[[Path, Path], None] = lambda run, original: None
    notice: str = ""
    mended_options: tuple[str, ...] = ()
