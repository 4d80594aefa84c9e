"""Features that an accelerator computes: those of the CPU, up to rounding."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from nas.data.features import encode
from tests.support.building import build, feature_sources
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
