"""The choice of a device."""

import io

import pytest
import torch

from nas.cli import main
from nas.common.devices import (
    CPU,
    communication_backend,
    computing_in,
    device_of,
    fast_precision,
    has_fused_updates,
    is_accelerator,
    others_like,
    precision_of,
    product_dtype,
    synchronize,
)
from nas.common.errors import ExecutionError
from nas.common.precision import Precision
from nas.common.progress import LineReporter
from nas.run.build_help import build_helpers
from nas.run.executors import ExecutionOptions
from tests.support.search_file import make_search_config


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("choice", "expected"),
    [("auto", "cuda:0"), ("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:0", "cuda:0"), ("cuda:1", "cuda:1")],
)
def test_device_is_the_chosen_one(choice: str, expected: str) -> None:
    assert device_of(choice) == torch.device(expected)


@pytest.mark.usefixtures("two_gpus")
def test_other_gpus_are_those_besides_the_chosen_one() -> None:
    assert others_like(torch.device("cuda:0")) == others_like(torch.device("cuda")) == [torch.device("cuda:1")]
    assert others_like(torch.device("cuda:1")) == [torch.device("cuda:0")]
    assert others_like(CPU) == others_like(torch.device("mps")) == []


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("count", "device", "expected"), [(None, "auto", 1), (2, "cuda", 1), (0, "auto", 0), (2, "cpu", 0)]
)
def test_search_with_workers_computes_features_on_all_gpus(count: int | None, device: str, expected: int) -> None:
    options = ExecutionOptions(worker_count=count, device=device)
    helpers = build_helpers(make_search_config(), options, LineReporter(io.StringIO()))
    assert len(() if helpers is None else helpers.devices) == expected


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("choice", ["cuda:2", "cuda:-1", "mps", "cpu:1", "CUDA", "", "gpu"])
def test_device_that_is_not_there_is_refused_with_those_that_are(choice: str) -> None:
    with pytest.raises(ExecutionError) as refused:
        device_of(choice)
    assert str(refused.value) == (
        f"--device: not available here; expected one of auto, cpu, cuda:0, cuda:1, got {choice!r}"
    )


def test_without_an_accelerator_everything_is_computed_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    assert device_of("auto") == device_of("cpu") == CPU
    with pytest.raises(ExecutionError, match="expected one of auto, cpu, got 'cuda'"):
        device_of("cuda")


def test_the_cpu_is_no_accelerator_and_has_nothing_to_wait_for() -> None:
    assert not is_accelerator(CPU) and not is_accelerator(torch.device("meta"))
    assert is_accelerator(torch.device("cuda", 1))
    synchronize(CPU)


@pytest.mark.parametrize("command", [["evaluate", "model", "--data", "data.csv"], ["predict", "model", "--text", "x"]])
def test_commands_refuse_a_device_before_they_read_anything(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    given = [*command, *(["--image", "x.png"] if command[0] == "predict" else []), "--device", "cuda"]
    assert main(given) == 2
    assert capsys.readouterr().err == "error: --device: not available here; expected one of auto, cpu, got 'cuda'\n"


def test_only_a_gpu_updates_all_tensors_at_once() -> None:
    assert has_fused_updates(torch.device("cuda", 0)) and not has_fused_updates(CPU)


@pytest.mark.parametrize(("has_units", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_automatic_precision_is_bfloat16_where_a_gpu_has_units_for_it(
    has_units: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_units)
    gpu = torch.device("cuda", 0)
    assert precision_of("auto", gpu) == fast_precision(gpu) == expected
    assert precision_of("auto", CPU) == "float32"
    assert precision_of("bfloat16", CPU) == "bfloat16" and precision_of("float32", gpu) == "float32"


def test_products_have_the_chosen_precision_and_sums_float32() -> None:
    rows, weight = torch.ones(2, 3), torch.ones(3, 3)
    expected: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    for precision, dtype in expected.items():
        with computing_in(precision, CPU):
            assert (rows @ weight).dtype == product_dtype(precision) == dtype
            assert (rows + 1).dtype == torch.float32


@pytest.mark.parametrize(
    ("kind", "is_built", "backend"), [("cuda", True, "nccl"), ("cuda", False, "gloo"), ("cpu", True, "gloo")]
)
def test_gpus_exchange_tensors_by_nccl_where_it_is_built(
    monkeypatch: pytest.MonkeyPatch, kind: str, is_built: bool, backend: str
) -> None:
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: is_built)
    assert communication_backend(torch.device(kind)) == backend
