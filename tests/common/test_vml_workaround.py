import subprocess
import sys

from nas.common.vml_workaround import FUNCTIONS

LOGGED = """
import torch
from torch.utils._python_dispatch import TorchDispatchMode

class Log(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if len(args) == 1 and isinstance(args[0], torch.Tensor):
            print(function.overloadpacket.__name__, args[0].dtype, args[0].numel())
        return function(*args, **(kwargs or {}))

with Log():
    import nas.training
"""

# A forked process has what its parent has imported, but computes by several threads for the first time.
FIRST_CALLS = """
import os
import torch
import nas.models.encoders

def is_the_same() -> bool:
    torch.set_num_threads(2)
    x = torch.linspace(0.01, 5, 100_000)
    return all(torch.equal(function(x), function(x)) for function in (torch.exp, torch.log, torch.sqrt))

children = []
for _ in range(40):
    children.append(os.fork())
    if children[-1] == 0:
        os._exit(not is_the_same())
raise SystemExit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def test_every_function_is_called_with_one_element_when_the_product_is_imported() -> None:
    # One element is never divided among threads.
    done = subprocess.run([sys.executable, "-c", LOGGED], capture_output=True, text=True, check=True)
    called = set(done.stdout.splitlines())
    for function in FUNCTIONS:
        for kind in ("torch.float32", "torch.float64"):
            assert f"{function.__name__} {kind} 1" in called


def test_first_calls_by_several_threads_are_exact() -> None:
    subprocess.run([sys.executable, "-c", FIRST_CALLS], check=True)
