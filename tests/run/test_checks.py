"""Checks before any long computation."""

from types import SimpleNamespace

import pytest

from nas.common.errors import BudgetError, ConfigError
from nas.config.load import load_config
from nas.data.mask_vocabulary import MaskVocabulary
from nas.models.encoders.pretrained import load_tokenizer
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.run.checks import check_memory, check_space, mask_vocabulary
from nas.run.prepare import predict_memory
from nas.search.pretraining import OBJECTIVES
from tests.support.project import Project
from tests.support.search_file import make_search_config
from tests.support.tiny import encoders


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget.memory": "1MiB"}, r"memory budget 1\.00 MiB: not even the smallest architecture"),
        (
            {"search.constraints": ["trainable_parameters <= 10"]},
            r"search\.constraints: trainable_parameters <= 10: not even the smallest .* meets it",
        ),
        (
            {"search.constraints": ["peak_memory <= 1MiB"]},
            r"search\.constraints: peak_memory <= 1048576B: not even the smallest architecture",
        ),
    ],
)
def test_budget_that_nothing_meets_is_refused(project: Project, changes: dict[str, object], message: str) -> None:
    source = project.write("refused.yaml", **changes)
    memory, _ = predict_memory(load_config(source), source=str(source))
    with pytest.raises(BudgetError, match=message):
        check_memory(load_config(source), memory)


def test_smallest_architecture_may_fit_in_micro_batches(project: Project) -> None:
    config = load_config(project.root / "search.yaml")
    memory, _ = predict_memory(config, source="")
    needed = memory.predict(config.space.smallest).peak_bytes
    tight = config.budget.replace(memory_bytes=needed - 1)
    with pytest.raises(BudgetError, match=r"budget\.oversized: accumulate needs less"):
        check_memory(config.replace(budget=tight), memory)
    check_memory(config.replace(budget=tight.replace(oversized="accumulate")), memory)


def test_masked_words_need_a_tokenizer_with_a_mask_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PMFArchitecture, "pretraining_objectives", OBJECTIVES)
    without = SimpleNamespace(mask_token_id=None)
    with pytest.raises(
        ConfigError,
        match=r"pretraining\.objectives: masked_language needs a tokenizer with a mask token; expected "
        r"\[contrastive, matching\] or another text encoder, got that of .*bert",
    ):
        mask_vocabulary(make_search_config(pretraining={"steps": 3}), without, "file")
    others = {"steps": 3, "objectives": ["contrastive", "matching"]}
    assert mask_vocabulary(make_search_config(pretraining=others), without, "file") is None
    assert mask_vocabulary(make_search_config(), without, "file") is None


def test_vocabulary_has_the_ids_of_the_tokenizer(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PMFArchitecture, "pretraining_objectives", OBJECTIVES)
    found = mask_vocabulary(
        make_search_config(pretraining={"steps": 3}), load_tokenizer(str(project.root / "bert")), ""
    )
    assert found == MaskVocabulary(size=11, mask_id=4, special_ids=(0, 1, 2, 3, 4))
    assert found is not None and found.ordinary_ids().tolist() == list(range(5, 11))


def test_values_that_the_encoders_bound_are_named_at_once(project: Project) -> None:
    space = {"coattention_layer": [0, 3], "coattentions": [1, 4]}
    config = load_config(project.write("deep.yaml", family="vilbert", space=space))
    with pytest.raises(ConfigError) as raised:
        check_space(config, "deep.yaml", *encoders(image_layers=4, text_layers=3))
    since = "since the encoders have 4 and 3 layers"
    assert f"space.coattention_layer: too large; expected at most 2, {since}, got 3" in str(raised.value)
    assert f"space.coattentions: too large; expected at most 3, {since}, got 4" in str(raised.value)
