import subprocess
import sys

import pytest

from nas.common.vml_workaround import FUNCTIONS

FIRST_CALLS = """
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import ViTConfig

from nas.models.encoders.checkpoints import build_encoder

class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.first_calls = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if args and isinstance(args[0], torch.Tensor) and args[0].device.type == "cpu":
            call = function.overloadpacket.__name__, args[0].dtype
            self.first_calls.setdefault(call, args[0].numel())
        return function(*args, **(kwargs or {}))

config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16)
with Recorder() as recorder:
    with torch.device("meta"):
        build_encoder(config)
    for dtype in (torch.float32, torch.float64):
        values = torch.linspace(0.01, 0.99, 100_000, dtype=dtype)
        for function in (torch.exp, torch.log, torch.sqrt, torch.tanh, torch.erf):
            function(values)
for (name, dtype), count in recorder.first_calls.items():
    print(name, dtype, count)
"""

FAKE_FIRST = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from nas.common import vml_workaround

vml_workaround.FUNCTIONS = (lambda one: print(type(one).__name__),)
with FakeTensorMode():
    vml_workaround.resolve_vector_functions()
vml_workaround.resolve_vector_functions()
vml_workaround.resolve_vector_functions()
"""


def run(code: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.long
def test_the_first_call_of_every_function_is_made_with_one_element_by_the_first_encoder() -> None:
    # A single element is never divided among threads.
    first_calls = dict(line.rsplit(" ", 1) for line in run(FIRST_CALLS))
    for function in FUNCTIONS:
        for dtype in ("torch.float32", "torch.float64"):
            assert first_calls[f"{function.__name__} {dtype}"] == "1"


@pytest.mark.long
def test_functions_are_resolved_once_and_only_with_real_tensors() -> None:
    assert run(FAKE_FIRST) == ["Tensor", "Tensor"]  # float32 and float64
