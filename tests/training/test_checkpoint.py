"""Checkpoints of supernet trainings that are damaged, of another configuration, or cannot be written."""

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nas.common.errors import StudyError
from nas.training.checkpoint import load_tensors, weights_checksum
from tests.support.supernet_training import (
    STEPS,
    TrainingCase,
    assert_identical,
    fresh_supernet,
    load_checkpoint,
    train_case,
)


def stop_at_once(case: TrainingCase) -> None:
    """Start or resume the training and stop it before the next step, which saves a checkpoint."""
    train_case(case, fresh_supernet(case.config), should_stop=lambda: True)


def test_failed_write_is_an_error_and_keeps_the_previous_checkpoint(
    case: TrainingCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at_once(case)
    before = case.checkpoint.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        train_case(case, fresh_supernet(case.config))
    assert case.checkpoint.read_bytes() == before
    assert list(case.checkpoint.parent.iterdir()) == [case.checkpoint]


def test_damage_is_either_one_error_that_names_the_checkpoint_or_harmless(case: TrainingCase) -> None:
    stop_at_once(case)
    content, expected = case.checkpoint.read_bytes(), load_checkpoint(case.checkpoint)
    rng, flipped, messages = random.Random(0), [], []
    for _ in range(100):
        copy = bytearray(content)
        copy[rng.randrange(len(copy))] ^= 1 << rng.randrange(8)
        flipped.append(bytes(copy))
    for damaged in [b"", b"no checkpoint", content[: len(content) // 2], content[:-1], content[100:], *flipped]:
        case.checkpoint.write_bytes(damaged)
        try:
            stop_at_once(case)
        except StudyError as error:
            messages.append(str(error))
        else:  # the damaged bit was padding between tensors
            assert_identical(load_checkpoint(case.checkpoint), expected)
    assert len(messages) > 50
    assert all(message.startswith(f"{case.checkpoint}: cannot read the checkpoint") for message in messages)


@pytest.mark.parametrize("read", [load_tensors, weights_checksum])
def test_pipe_or_missing_file_is_refused_before_it_is_opened(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StudyError, match=r"pipe: cannot be read; expected trained weights, got a named pipe; restore"):
        read(tmp_path / "pipe")
    with pytest.raises(StudyError, match=r"none: cannot be read: no such file .*; expected trained weights; restore"):
        read(tmp_path / "none")


@pytest.mark.parametrize(
    ("changes", "saved", "expected"),
    [
        ({"step_count": STEPS + 1}, f"supernet.steps {STEPS}", f"supernet.steps {STEPS + 1}"),
        ({"architectures_per_step": 2}, "supernet.architectures_per_step 3", "supernet.architectures_per_step 2"),
    ],
)
def test_checkpoint_of_another_configuration_is_rejected(
    case: TrainingCase, changes: dict[str, int], saved: str, expected: str
) -> None:
    stop_at_once(case)
    with pytest.raises(StudyError, match=f"{case.checkpoint}: .*; expected .*{expected}.*, got .*{saved}"):
        stop_at_once(replace(case, **changes))  # type: ignore[arg-type]
