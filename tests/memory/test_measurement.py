"""Measured memory of this process, and of processes that keep or release freed memory."""

import subprocess
import sys
import threading
import time

import pytest
import torch

from nas.memory.measurement import MemoryWatch, private_bytes, release_freed_memory

MIB = 2**20


class CountedSamples:
    """Counts the samples of memory watches, so that a test can wait for the next ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._count = 0
        monkeypatch.setattr("nas.memory.measurement.private_bytes", self._measure)

    def _measure(self) -> int:
        self._count += 1
        return private_bytes()

    def wait_for(self, count: int) -> None:
        """Wait until that many more samples were taken."""
        target, deadline = self._count + count, time.monotonic() + 60
        while self._count < target:
            assert time.monotonic() < deadline, "the watch takes no samples"
            time.sleep(0.01)


def test_private_memory_includes_live_tensors() -> None:
    release_freed_memory()  # otherwise the block may reuse memory that earlier tests freed
    before = private_bytes()
    with MemoryWatch() as watch:
        block = torch.ones(16 * MIB)
    assert watch.peak_bytes - before > 0.9 * block.numel() * block.element_size()


def test_watch_records_a_peak_within_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    release_freed_memory()
    before = private_bytes()
    samples = CountedSamples(monkeypatch)
    with MemoryWatch() as watch:
        block = torch.ones(16 * MIB)
        samples.wait_for(2)
        del block
        release_freed_memory()
    assert watch.peak_bytes - before > 60 * MIB


def test_mapped_file_is_not_private_memory(tmp_path: object) -> None:
    path = f"{tmp_path}/weights.pt"
    torch.save({"weight": torch.ones(16 * MIB)}, path)
    release_freed_memory()
    before = private_bytes()
    weights = torch.load(path, mmap=True, weights_only=True)
    assert float(weights["weight"].sum()) == 16 * MIB  # so that all pages were read
    assert private_bytes() - before < 8 * MIB


def test_exceeded_limit_is_reported_once_from_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    release_freed_memory()
    reports: list[tuple[int, int]] = []
    samples = CountedSamples(monkeypatch)
    limit_bytes = private_bytes() + 30 * MIB
    with MemoryWatch(limit_bytes, lambda measured: reports.append((measured, threading.get_ident()))) as watch:
        samples.wait_for(3)
        assert not reports
        block = torch.ones(16 * MIB)
        samples.wait_for(6)
        del block
    ((measured, thread),) = reports
    assert measured > limit_bytes and thread != threading.get_ident()
    assert watch.peak_bytes >= measured


@pytest.mark.parametrize(("policy", "keeps"), [("keep_freed_memory", True), ("map_large_tensors", False)])
def test_freed_memory_is_kept_or_released_and_does_not_count_against_the_limit(policy: str, keeps: bool) -> None:
    code = f"""
import torch
from nas.memory.measurement import MemoryWatch, {policy}, private_bytes, release_freed_memory
{policy}()
before = private_bytes()
blocks = [torch.ones(2**20) for _ in range(20)]
last = torch.ones(2**20)  # on top of the heap
del blocks
print(private_bytes() - before > 60 * 2**20)
reports = []
with MemoryWatch(before + 30 * 2**20, reports.append):
    pass  # samples at the start and at the end
print(bool(reports), private_bytes() - before < 30 * 2**20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(keeps), "False", "True"]
