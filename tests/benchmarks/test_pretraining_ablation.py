"""The variants of the ablation of a pretraining, and what a further call keeps."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pretraining_ablation import WHOLE, kept, summary, variants_of
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.search.pretraining import OBJECTIVES, Objective


@pytest.mark.parametrize(
    ("objectives", "expected"),
    [
        (
            OBJECTIVES,
            {
                WHOLE: {},
                "no pretraining": {"steps": 0},
                "no momentum distillation": {"distillation": 0.0},
                "no hard negatives": {"hard_negatives": False},
                "no contrastive objective": {"objectives": ["matching", "masked_language"]},
                "no matching objective": {"objectives": ["contrastive", "masked_language"]},
                "no masked language objective": {"objectives": ["contrastive", "matching"]},
            },
        ),
        (("matching",), {WHOLE: {}, "no pretraining": {"steps": 0}}),
    ],
)
def test_each_part_that_a_family_has_is_left_out_once(
    monkeypatch: pytest.MonkeyPatch, objectives: tuple[Objective, ...], expected: dict[str, Any]
) -> None:
    monkeypatch.setattr(PMFArchitecture, "pretraining_objectives", objectives)
    assert {variant.name: dict(variant.changes) for variant in variants_of("pmf")} == expected


def test_finished_cells_are_kept_for_equal_settings(tmp_path: Path) -> None:
    path, settings = tmp_path / "figures.json", {"steps": 3, "recipe": {"rates": (0.1, 0.2)}}
    cells = [
        {"variant": name, "seed": seed, "score": 0.5 + 0.1 * seed - 0.05 * number, "seconds": 1.0}
        for number, name in enumerate((WHOLE, "no pretraining"))
        for seed in (0, 1)
    ]
    figures = summary(settings, cells, [0, 1], path)
    assert figures["comparisons"]["no pretraining"]["mean"] == pytest.approx(-0.05)
    assert figures["comparisons"]["no pretraining"]["losses"] == 2
    assert json.loads(path.read_text())["scores"][WHOLE] == pytest.approx([0.5, 0.6])
    assert kept(path, settings) == cells
    assert kept(path, {**settings, "steps": 4}) == [] == kept(tmp_path / "missing.json", settings) == kept(None, {})
