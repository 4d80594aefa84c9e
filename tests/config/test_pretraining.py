"""The section `pretraining` of the search file."""

from pathlib import Path
from typing import Any

import pytest

from nas.common.errors import ConfigError
from nas.config.diff import differences
from nas.config.load import parse_config
from nas.config.pretraining_schema import PretrainingConfig
from nas.config.schema import Config
from nas.models.fusion.mbt.architecture import MBTArchitecture
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.search.pretraining import OBJECTIVES
from tests.support.search_file import search_values


def config_of(**pretraining: Any) -> Config:
    values = search_values() | {"pretraining": pretraining}
    return parse_config(values, source="file", base_directory=Path("/project"))


def problem_of(**pretraining: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        config_of(**pretraining)
    (problem,) = caught.value.problems
    return problem


def test_there_is_no_pretraining_by_default() -> None:
    config = parse_config(search_values(), source="file", base_directory=Path("/project"))
    assert config.pretraining == PretrainingConfig() and config.pretraining.steps == 0
    assert config.pretraining.objectives_of(PMFArchitecture) == ()


def test_family_that_cannot_be_pretrained_is_refused_by_name() -> None:
    problem = problem_of(steps=4)
    assert problem.startswith("pretraining.steps: invalid value; expected 0 for the family pmf, ")
    assert problem.endswith(", got 4")
    assert config_of(steps=0, objectives=["matching"]).pretraining.steps == 0


def test_message_names_the_families_that_can_be_pretrained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MBTArchitecture, "pretraining_objectives", OBJECTIVES)
    assert "pmf, which cannot be pretrained; " in problem_of(steps=4)
    assert "mbt" in problem_of(steps=4)


def test_objectives_are_those_of_the_family_unless_some_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PMFArchitecture, "pretraining_objectives", ("matching", "masked_language"))
    assert config_of(steps=4).pretraining.objectives_of(PMFArchitecture) == ("matching", "masked_language")
    config = config_of(steps=4, objectives=["masked_language", "matching"])
    assert config.pretraining.objectives == ("matching", "masked_language"), "in one order"
    assert config.as_dict()["pretraining"]["objectives"] == ["matching", "masked_language"]
    assert problem_of(steps=4, objectives=["contrastive"]) == (
        "pretraining.objectives: invalid value; expected some of matching, masked_language for the family pmf, "
        "got 'contrastive'"
    )


def test_steps_on_texts_alone_need_a_family_that_learns_from_them_and_masked_words() -> None:
    assert problem_of(text_steps=4) == (
        "pretraining.text_steps: invalid value; expected 0 for the family pmf, which cannot learn from texts alone; "
        "vlmo can, got 4"
    )
    values = search_values() | {"family": "vlmo", "space": {"modality_layers": [0, 1]}}

    def vlmo(**pretraining: Any) -> PretrainingConfig:
        given = values | {"pretraining": pretraining}
        return parse_config(given, source="file", base_directory=Path("/project")).pretraining

    assert vlmo(steps=2, text_steps=4).text_steps == 4
    for wrong in ({"steps": 0}, {"steps": 2, "objectives": ["matching"]}):
        with pytest.raises(
            ConfigError, match=r"pretraining\.text_steps: .*0 without steps \(above 0\) and masked_lang"
        ):
            vlmo(text_steps=4, **wrong)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("objectives", ["matching", "matching"]),
        ("objectives", []),
        ("objectives", "matching"),
        ("objectives", ["other"]),
        ("steps", -1),
        ("queue_size", 1.5),
        ("momentum", 1.1),
        ("distillation", -0.1),
        ("learning_rate", 0),
        ("checkpoint_steps", 0),
    ],
)
def test_invalid_values_are_refused(key: str, value: Any) -> None:
    assert problem_of(**{key: value}).startswith(f"pretraining.{key}: invalid value; expected ")


def test_configuration_is_read_back_from_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PMFArchitecture, "pretraining_objectives", OBJECTIVES)
    config = config_of(steps=4, objectives=["matching"], learning_rate=1e-3, hard_negatives=False)
    assert parse_config(config.as_dict(), source="file", base_directory=Path("/project")) == config


def test_run_from_before_there_was_a_pretraining_has_none() -> None:
    after = config_of().as_dict()
    before = {key: value for key, value in after.items() if key != "pretraining"}
    assert differences(before, after) == []
    changed = after | {"pretraining": after["pretraining"] | {"steps": 4}}
    assert differences(before, changed) == ["pretraining.steps: 0 → 4"]
