"""Features that an accelerator computes: those of the CPU, up to rounding."""

import io
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.common.devices import others_like
from nas.common.progress import LineReporter
from nas.config.load import load_config
from nas.data.features import crew, decoding_processes, encode, inputs
from nas.data.features.helpers import OwnDevices
from nas.data.features.inputs import FeatureSources, pixel_values
from nas.data.features.threads import BuildLimits
from nas.run.prepare import prepare
from tests.support.building import build, content, feature_sources
from tests.support.project import Project
from tests.support.simulated_accelerator import NAME, operators
from tests.support.tiny import reads_at

pytestmark = pytest.mark.accelerator


def test_features_of_an_accelerator_equal_those_of_the_cpu(
    project: Project, device: torch.device, tmp_path: Path
) -> None:
    sources = feature_sources(project)
    expected = build(sources, tmp_path / "cpu", dtype="float32", attention=True)
    with operators() as counts:
        found = build(replace(sources, device=device), tmp_path / "device", dtype="float32", attention=True)
    if device.type == NAME:
        assert counts["aten::addmm"] > 0
    assert not counts.keys() & {"_local_scalar_dense", "aten::nonzero"}, "the host waits for no value of a batch"
    assert {parameter.device.type for parameter in sources.image_encoder.parameters()} == {"cpu"}
    for name, split in expected.splits.items():
        for layer in (0, 1, 2):
            values = []
            for store in (expected, found):
                batch = asdict(store.splits[name].batch(range(len(split)), reads_at(layer)))
                values.append({key: value for key, value in batch.items() if value is not None})
            torch.testing.assert_close(values[1], values[0], atol=1e-5, rtol=1e-4)


def test_features_in_float16_equal_those_in_float32_up_to_its_rounding(
    project: Project, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = feature_sources(project)
    expected = build(sources, tmp_path / "cpu")
    monkeypatch.setattr(encode, "is_fast_in_float16", lambda device: True)
    found = build(replace(sources, device=device), tmp_path / "device")
    for name, split in expected.splits.items():
        for layer in (0, 1, 2):
            batches = [store.splits[name].batch(range(len(split)), reads_at(layer)) for store in (expected, found)]
            for tokens in ("image_tokens", "text_tokens"):
                before, after = (getattr(batch, tokens) for batch in batches)
                assert after.dtype == torch.float16
                torch.testing.assert_close(after, before, atol=1e-2, rtol=1e-2)
    with torch.no_grad():
        image = expected.splits["train"].readouts("pooled", "pooled")[0]
        other = found.splits["train"].readouts("pooled", "pooled")[0]
    assert not torch.equal(image, other), "it was computed in another way"


def test_processes_that_decode_and_further_devices_change_no_bit(
    project: Project, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "BLOCK_SIZE", 16)
    sources = replace(feature_sources(project), device=device)
    limits = BuildLimits(3)  # the simulated device computes with as many threads
    with monkeypatch.context() as patch:
        patch.setattr(crew, "can_fork", lambda: False)
        whole = content(build(sources, tmp_path / "threads", attention=True, limits=limits))
    places: set[int] = set()
    both, encoded = threading.Barrier(2, timeout=60), encode.BatchEncoder.encode

    def decode(names: Sequence[str], views: int, sources: FeatureSources) -> torch.Tensor:
        with (tmp_path / "processes").open("a") as file:
            file.write(f"{os.getpid()}\n")
        return pixel_values(names, views, sources)

    def meet(self: encode.BatchEncoder, *arguments: Any) -> encode.EncodedBatch:
        if id(self) not in places:
            places.add(id(self))
            both.wait()
        return encoded(self, *arguments)

    monkeypatch.setattr(decoding_processes, "pixel_values", decode)
    assert content(build(sources, tmp_path / "one", attention=True, limits=limits)) == whole
    found = (tmp_path / "processes").read_text().split()
    assert len(found) == 3 + 1 and str(os.getpid()) not in found, "the blocks of train and of validation"

    monkeypatch.setattr(encode.BatchEncoder, "encode", meet)
    helpers = OwnDevices([device])
    store = build(sources, tmp_path / "two", attention=True, limits=limits, helpers=helpers)
    assert content(store) == whole and len(places) == 2, "both devices have computed blocks"
    assert others_like(device) == others_like(torch.device("cpu")) == []


def test_deterministic_search_computes_features_with_deterministic_kernels(
    project: Project, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    were: list[bool] = []
    encoded = encode.BatchEncoder.encode

    def encode_and_note(self: encode.BatchEncoder, *arguments: Any) -> encode.EncodedBatch:
        were.append(torch.are_deterministic_algorithms_enabled() and "CUBLAS_WORKSPACE_CONFIG" in os.environ)
        return encoded(self, *arguments)

    monkeypatch.setattr(encode.BatchEncoder, "encode", encode_and_note)
    config = load_config(project.root / "search.yaml").replace(deterministic=True)
    try:
        for place, expected in ((torch.device("cpu"), False), (device, True)):
            cache = tmp_path / place.type
            prepare(config, source="", cache_directory=cache, reporter=LineReporter(io.StringIO()), device=place)
            assert set(were) == {expected}
            were.clear()
    finally:
        torch.use_deterministic_algorithms(False)
