"""Validation logits that trainings keep: what is read back is what was written, or nothing."""

import random
from pathlib import Path

import pytest
import torch

from nas.search.keys import CandidateKey, RerunKey
from nas.training import kept_logits
from nas.training.kept_logits import keep_logits, logits_bytes, read_logits
from tests.support.factories import make_result

TRAINING = make_result(key=RerunKey(CandidateKey(0), 2), stage="full", seed=11)
LOGITS = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))


def test_logits_are_read_back_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "logits" / "a.safetensors"
    keep_logits(path, LOGITS, TRAINING)
    read = read_logits(path, TRAINING, (7, 3))
    assert read is not None and torch.equal(read, LOGITS)
    assert [entry.name for entry in path.parent.iterdir()] == ["a.safetensors"]


def test_logits_that_are_missing_or_of_another_training_are_not_used(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    assert read_logits(path, TRAINING, (7, 3)) is None
    keep_logits(path, LOGITS, TRAINING)
    others = [
        make_result(key=CandidateKey(2), stage="full", seed=11),
        make_result(key=RerunKey(CandidateKey(0), 2), stage="full", seed=12),
    ]
    assert all(read_logits(path, other, (7, 3)) is None for other in others)
    assert read_logits(path, TRAINING, (8, 3)) is None and read_logits(path, TRAINING, (7, 4)) is None


def test_damaged_logits_are_noticed_wherever_a_bit_is_flipped(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    keep_logits(path, LOGITS, TRAINING)
    content, rng = path.read_bytes(), random.Random(0)
    for damaged in [b"", b"text", content[:-1], content[: len(content) // 2]]:
        path.write_bytes(damaged)
        assert read_logits(path, TRAINING, (7, 3)) is None
    for _ in range(100):
        flipped = bytearray(content)
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        read = read_logits(path, TRAINING, (7, 3))
        assert read is None or torch.equal(read, LOGITS)  # the bit was one of white space


def test_logits_above_the_bound_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert logits_bytes(7, 3) == 84 and logits_bytes(1_000_000, 100) == 0
    monkeypatch.setattr(kept_logits, "MAX_LOGITS_BYTES", 83)
    keep_logits(tmp_path / "a.safetensors", LOGITS, TRAINING)
    assert not list(tmp_path.iterdir())
