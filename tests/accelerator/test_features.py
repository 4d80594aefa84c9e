"""Features that an accelerator computes: those of the CPU, up to rounding."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from tests.support.building import build, feature_sources
from tests.support.project import Project
from tests.support.simulated_accelerator import operators
from tests.support.tiny import reads_at

pytestmark = pytest.mark.accelerator


def test_features_of_an_accelerator_equal_those_of_the_cpu(
    project: Project, device: torch.device, tmp_path: Path
) -> None:
    sources = feature_sources(project)
    expected = build(sources, tmp_path / "cpu", dtype="float32", attention=True)
    with operators() as counts:
        found = build(replace(sources, device=device), tmp_path / "device", dtype="float32", attention=True)
    assert counts["aten::addmm"] > 0
    assert {parameter.device.type for parameter in sources.image_encoder.parameters()} == {"cpu"}
    for name, split in expected.splits.items():
        for layer in (0, 1, 2):
            values = []
            for store in (expected, found):
                batch = asdict(store.splits[name].batch(range(len(split)), reads_at(layer)))
                values.append({key: value for key, value in batch.items() if value is not None})
            torch.testing.assert_close(values[1], values[0], atol=1e-5, rtol=1e-4)
