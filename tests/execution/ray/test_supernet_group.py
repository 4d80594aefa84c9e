"""How the workers that train the supernet exchange their gradients."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nas.execution.ray.nodes import Slot
from nas.execution.ray.supernet import group_backend


def members(device: str, *names: str) -> Any:
    gpu = None if device == "cpu" else object()
    node = SimpleNamespace(setup=SimpleNamespace(device=device))
    return [(node, Slot(name, gpu=gpu)) for name in names]  # type: ignore[arg-type]


def test_gradients_go_directly_between_gpus_if_each_process_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    assert group_backend(members("cuda:0", "a GPU 0", "a GPU 1", "b GPU 0")) == "nccl"
    assert group_backend(members("cuda:0", "a GPU 0", "a GPU 0")) == "gloo", "NCCL requires a GPU for each process"
    assert group_backend(members("cpu", "a", "a")) == "gloo"
