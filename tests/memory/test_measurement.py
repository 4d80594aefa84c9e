import subprocess
import sys
import threading
import time

import pytest
import torch

from nas.memory.measurement import MemoryWatch, private_bytes, release_freed_memory

MIB = 2**20


def test_private_memory_shows_what_is_held() -> None:
    release_freed_memory()  # else the block may take the place of what earlier tests have freed
    before = private_bytes()
    with MemoryWatch() as watch:
        block = torch.ones(16 * MIB)
    assert watch.peak_bytes - before > 0.9 * block.numel() * block.element_size()


def test_a_peak_between_is_seen() -> None:
    release_freed_memory()
    before = private_bytes()
    with MemoryWatch() as watch:
        block = torch.ones(16 * MIB)
        time.sleep(0.1)
        del block
        release_freed_memory()
    assert watch.peak_bytes - before > 60 * MIB


def test_a_mapped_file_is_not_private(tmp_path: object) -> None:
    path = f"{tmp_path}/weights.pt"
    torch.save({"weight": torch.ones(16 * MIB)}, path)
    release_freed_memory()
    before = private_bytes()
    weights = torch.load(path, mmap=True, weights_only=True)
    assert float(weights["weight"].sum()) == 16 * MIB  # so all of it was read
    assert private_bytes() - before < 8 * MIB


def test_passing_the_limit_is_told_once_from_another_thread() -> None:
    release_freed_memory()
    limit, told, here = private_bytes() + 30 * MIB, [], threading.get_ident()
    with MemoryWatch(limit, lambda held: told.append((held, threading.get_ident()))) as watch:
        time.sleep(0.1)
        assert not told
        block = torch.ones(16 * MIB)
        time.sleep(0.2)
        del block
    assert len(told) == 1
    held, thread = told[0]
    assert held > limit and thread != here
    assert watch.peak_bytes >= held


@pytest.mark.parametrize(("policy", "keeps"), [("keep_freed_memory", True), ("map_large_tensors", False)])
def test_freed_memory_is_kept_or_goes_back_and_is_no_reason_to_exceed_a_limit(policy: str, keeps: bool) -> None:
    code = f"""
import time, torch
from nas.memory.measurement import MemoryWatch, {policy}, private_bytes, release_freed_memory
{policy}()
before = private_bytes()
blocks = [torch.ones(2**20) for _ in range(20)]
last = torch.ones(2**20)  # on top of the heap
del blocks
print(private_bytes() - before > 60 * 2**20)
told = []
with MemoryWatch(before + 30 * 2**20, told.append):
    time.sleep(0.2)
print(bool(told), private_bytes() - before < 30 * 2**20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(keeps), "False", "True"]
