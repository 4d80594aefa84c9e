"""An accelerator in host memory, on which tensors that were left behind fail as they would on a GPU.

It is a backend of PyTorch under the name `simulated`, written in C++ and compiled where a compiler is. A process that
has loaded it has an accelerator from then on, so tests that need it run in a process of their own (marker
`accelerator`). `python -m tests.support.simulated_accelerator -m MODULE …` runs a program on it.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torchgen  # type: ignore[import-untyped]
import yaml
from torch.utils import backend_registration

NAME = "simulated"
SYNCHRONISATIONS = (
    "_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "copy from host",
    "copy to host",
    "wait for all",
)
"""What the host waits for a GPU for. Copies between the GPU and pinned memory are waited for through an event."""

_SOURCE = Path(__file__).with_name("backend.cpp")
_MODULE = "simulated_backend"
_TOTAL_BYTES = 2**34


def compiler() -> str | None:
    """Return the C++ compiler of this machine; None if it has none, or no headers of Python."""
    has_headers = (Path(sysconfig.get_path("include")) / "Python.h").exists()
    return shutil.which(os.environ.get("CXX", "g++")) if has_headers else None


class _DeviceModule:
    """The functions that PyTorch expects of a kind of device, as in `torch.cuda`."""

    def __init__(self, backend: ModuleType) -> None:
        self._backend: Any = backend
        self._limit_bytes = _TOTAL_BYTES

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def manual_seed_all(self, seed: int) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def synchronize(self, device: object = None) -> None:
        self._backend.synchronize()

    def empty_cache(self) -> None:
        pass

    def mem_get_info(self, device: object = None) -> tuple[int, int]:
        return self._limit_bytes - self._backend.live_bytes(), _TOTAL_BYTES

    def reset_peak_memory_stats(self, device: object = None) -> None:
        self._backend.reset_peak()

    def max_memory_reserved(self, device: object = None) -> int:
        return int(self._backend.peak_bytes())

    max_memory_allocated = max_memory_reserved

    def memory_reserved(self, device: object = None) -> int:
        return int(self._backend.live_bytes())

    def set_per_process_memory_fraction(self, fraction: float, device: object = None) -> None:
        self._limit_bytes = round(fraction * _TOTAL_BYTES)
        self._backend.set_limit(self._limit_bytes)


@cache
def load() -> ModuleType:
    """Load the backend into this process, compiled once for each version of its source and of PyTorch.

    Raises:
        RuntimeError: If there is no compiler, or the source does not compile.
    """
    source = _SOURCE.read_bytes()
    key = hashlib.sha256(source + torch.__version__.encode()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"{_MODULE}-{os.getuid()}-{key}.so"
    if not library.exists():
        _compile(library)
    spec = importlib.util.spec_from_file_location(_MODULE, library)
    assert spec is not None and spec.loader is not None
    backend: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(backend)
    backend.refuse(cpu_operators())
    backend_registration.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _DeviceModule(backend))
    backend_registration.generate_methods_for_privateuse1_backend()
    module: ModuleType = backend
    return module


@cache
def cpu_operators() -> frozenset[str]:
    """Return the operators of PyTorch with a kernel for the CPU and none for CUDA, with their overloads."""
    path = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    kernels = {
        f"aten::{entry['func'].partition('(')[0]}": set(", ".join(entry["dispatch"]).split(", "))
        for entry in yaml.load(path.read_text(), Loader=loader)
        if "dispatch" in entry
    }
    composite = ("CompositeExplicitAutograd", "CompositeImplicitAutograd", "CompositeExplicitAutogradNonFunctional")
    return frozenset(name for name, keys in kernels.items() if "CPU" in keys and not keys & {"CUDA", *composite})


def _compile(library: Path) -> None:
    found = compiler()
    if found is None:
        raise RuntimeError(
            "simulated accelerator: cannot be compiled here; expected g++ or the compiler that CXX names, and the "
            "headers of Python"
        )
    root = Path(torch.__file__).parent
    headers = [root / "include", root / "include/torch/csrc/api/include", Path(sysconfig.get_path("include"))]
    temporary = library.with_suffix(f".{os.getpid()}")
    command = [
        *(found, "-std=c++20", "-O1", "-g0", "-shared", "-fPIC", f"-DTORCH_EXTENSION_NAME={_MODULE}"),
        *(f"-isystem{path}" for path in headers),
        *(str(_SOURCE), "-o", str(temporary), f"-L{root / 'lib'}", "-lc10", "-ltorch", "-ltorch_cpu"),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"simulated accelerator: cannot be compiled: {ended.stderr[-2000:]}")
    temporary.replace(library)


@contextmanager
def operators() -> Iterator[dict[str, int]]:
    """Count the operators that run on the device, by name; the counts are there when the context has ended.

    In a process that has not loaded the backend, since it has a real accelerator, nothing is counted.
    """
    found: dict[str, int] = {}
    if not load.cache_info().currsize:
        yield found
        return
    backend: Any = load()
    backend.reset_counts()
    yield found
    found.update(backend.counts())


def operators_so_far() -> dict[str, int]:
    """Return the operators that have run on the device since the context of `operators` began, by name."""
    backend: Any = load()
    return dict(backend.counts())
