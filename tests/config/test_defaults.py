from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.common.errors import ConfigError
from nas.config.defaults import Facts, resolve
from nas.config.load import load_config, parse_config
from nas.config.schema import Config
from nas.search.space import EncoderSizes
from nas.search.space.family_registry import FAMILIES
from tests.support.search_file import search_values

DEMO = EncoderSizes(image_layers=12, text_layers=6, image_hidden_size=192, text_hidden_size=384)
BASE = EncoderSizes(image_layers=12, text_layers=12, image_hidden_size=768, text_hidden_size=768)


def facts(samples: int = 1_804, sizes: EncoderSizes = DEMO) -> Facts:
    return Facts(samples, sizes, memory_bytes=3 * 2**30, encoders=("vit", "bert"))


def draft(**sections: Any) -> Config:
    values = {"name": "little", "data": {"manifest": "manifest.csv"}, **sections}
    return parse_config(values, source="search.yaml", base_directory=Path("/project"))


def resolved(known: Facts | None = None, **sections: Any) -> Config:
    config, _ = resolve(draft(**sections), known or facts(), source="search.yaml")
    return config


def problems(known: Facts | None = None, **sections: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        resolved(known, **sections)
    return caught.value.problems


def test_a_file_with_data_alone_becomes_the_settings_of_the_demo_for_its_data_and_encoders() -> None:
    config = resolved()
    assert (config.recipe.optimizer, config.recipe.batch_size, config.recipe.epochs) == ("adamw", 32, 5)
    assert (config.recipe.weight_decay, config.recipe.warmup_fraction, config.recipe.clip_norm) == (2.0, 0.1, 1.0)
    assert (config.supernet.steps, config.search.short_training_steps) == (350, 28)
    assert config.space.choices == {
        "fusion_layer": (3, 4, 5),
        "query_prompts": (1, 2, 4, 8),
        "query_context_prompts": (0, 2, 4, 8),
        "fusion_context_prompts": (0, 2, 4, 8),
        "mapping_width": (48, 96, 192, 384),
        "image_readout": (0, 1),
        "text_readout": (0, 1),
    }
    assert (config.budget.time_seconds, config.budget.trials, config.budget.memory_bytes) == (3_600, None, 3 * 2**30)
    assert (config.encoders.image, config.encoders.text) == ("vit", "bert")


@pytest.mark.parametrize(
    ("samples", "batch_size", "epochs", "supernet", "short"),
    [
        (180, 8, 9, 248, 20),
        (1_000, 32, 7, 272, 22),
        (6_000, 32, 3, 702, 56),
        (40_000, 64, 2, 1_563, 125),
        (1, 8, 200, 250, 20),
    ],
)
def test_lengths_follow_the_number_of_training_samples(
    samples: int, batch_size: int, epochs: int, supernet: int, short: int
) -> None:
    config = resolved(facts(samples))
    assert (config.recipe.batch_size, config.recipe.epochs) == (batch_size, epochs)
    assert (config.supernet.steps, config.search.short_training_steps) == (supernet, short)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 2_000_000))
def test_short_training_is_shorter_than_full_training_for_any_data(samples: int) -> None:
    config = resolved(facts(samples))
    full = config.recipe.step_count(samples)
    assert config.search.short_training_steps < full
    assert 0.5 < config.supernet.steps * config.supernet.architectures_per_step / (5 * full) < 1.5


@pytest.mark.parametrize("family", FAMILIES.names())
def test_default_space_of_every_family_contains_its_default_architecture(family: str) -> None:
    for sizes in (DEMO, BASE, EncoderSizes(1, 1, 4, 4)):
        space = resolved(facts(sizes=sizes), family=family).space
        assert space.architecture_class.default(sizes) in space
        layer_gene = space.architecture_class.layer_gene()
        assert layer_gene is None or space.first_layers[-1] < space.architecture_class.num_layers(sizes)


def test_given_values_stay_and_those_that_depend_on_them_follow() -> None:
    config = resolved(recipe={"batch_size": 16, "steps": 500}, supernet={"epochs": 10}, space={"mapping_width": [7]})
    assert (config.recipe.batch_size, config.recipe.epochs, config.recipe.step_count(9)) == (16, None, 500)
    assert config.supernet.steps == 282  # 10 * 1,804 samples / (4 * 16)
    assert config.search.short_training_steps == 50
    assert config.space.choices["mapping_width"] == (7,) and config.space.choices["fusion_layer"] == (3, 4, 5)
    config = resolved(search={"short_training_fraction": 0.5}, recipe="auto", budget={"memory": "1GiB"})
    assert (config.search.short_training_steps, config.search.short_training_fraction) == (140, None)
    assert (config.budget.memory_bytes, config.budget.time_seconds) == (2**30, 3_600)


@pytest.mark.parametrize(
    ("sections", "fraction"),
    [
        ({}, 0.2),
        ({"recipe": "auto"}, 0.2),
        ({"recipe": {"epochs": 5}}, 0.0),
        ({"budget": {"recipe_fraction": 0.1}}, 0.1),
        ({"budget": {"recipe_fraction": 0}}, 0.0),
        ({"budget": {"supernet_fraction": 0.4, "finalists_fraction": 0.4}}, 0.1),
    ],
)
def test_recipe_that_nobody_has_chosen_is_tuned(sections: dict[str, Any], fraction: float) -> None:
    assert resolved(**sections).budget.recipe_fraction == fraction


def test_recipe_follows_the_optimizer_and_whether_encoders_are_trained() -> None:
    sgd = resolved(recipe={"optimizer": "sgd"}).recipe
    assert (sgd.learning_rates.prompts, sgd.weight_decay, sgd.warmup_fraction, sgd.clip_norm) == (1e-2, 1e-4, 0, None)
    tuned = resolved(family="mbt").recipe
    assert (tuned.learning_rates.prompts, tuned.weight_decay, tuned.depth_scaling, tuned.epochs) == (1e-3, 0.05, 0, 2)
    partly = resolved(recipe={"learning_rates": {"prompts": 1e-4}}).recipe.learning_rates
    assert (partly.prompts, partly.mappings, partly.classifiers) == (1e-4, 6e-4, 1.2e-3)


def test_classifiers_start_from_the_linear_problem_where_encoders_are_frozen_and_nothing_else_is_set() -> None:
    assert resolved().recipe.classifier_start == "linear"
    assert [resolved(family=family).recipe.classifier_start for family in ("mbt", "vpt")] == ["random", "linear"]
    assert [resolved(recipe={"optimizer": name}).recipe.classifier_start for name in ("sgd", "adamw")] == ["random"] * 2
    given = resolved(recipe={"classifier_start": "random"}).recipe
    assert (given.classifier_start, given.learning_rates.classifiers) == ("random", 1.2e-2)
    given = resolved(recipe={"optimizer": "sgd", "classifier_start": "linear"}).recipe
    assert (given.classifier_start, given.learning_rates.classifiers) == ("linear", 1e-2)


def test_objective_follows_the_labels_and_the_budget_whether_the_search_is_deterministic() -> None:
    several = resolved(data={"manifest": "manifest.csv", "labels": "several"})
    assert (several.search.objective, resolved().search.objective) == ("macro_f1_tuned", "accuracy")
    budget = resolved(deterministic=True).budget
    assert (budget.time_seconds, budget.trials) == (None, 100)
    assert resolved(budget={"trials": 9}).budget.time_seconds is None


def test_readouts_are_the_papers_in_a_section_that_names_none_and_else_all_that_differ() -> None:
    def readouts(known: Facts | None = None, **sections: Any) -> list[tuple[int, ...]]:
        return [resolved(known, **sections).space.choices[f"{modality}_readout"] for modality in ("image", "text")]

    assert readouts() == readouts(space="auto") == [(0, 1), (0, 1)]
    assert readouts(space={"mapping_width": [7]}) == [(0,), (0,)]
    assert readouts(space={"image_readout": ["mean", "pooled"]}) == [(0, 1), (0,)]
    assert readouts(space={"image_readout": "auto", "text_readout": ["mean"]}) == [(0, 1), (1,)]
    pools_by_mean = EncoderSizes(12, 12, 768, 768, pool_by_mean=(True, False))
    assert readouts(facts(sizes=pools_by_mean)) == [(0,), (0, 1)]
    config = resolved(space={"text_readout": ["mean", "pooled"]})
    assert config.as_dict()["space"]["text_readout"] == ["pooled", "mean"]
    assert parse_config(config.as_dict(), source="", base_directory=Path()) == config


@pytest.mark.parametrize("value", [["cls"], [], "mean", ["mean", "mean"], [["mean"]], [0, 1], {"mean": 1}, None])
def test_other_readouts_are_refused(value: Any) -> None:
    (problem,) = problems(space={"text_readout": value})
    expected = "space.text_readout: invalid value; expected a list of one or more of pooled, mean, or auto, got "
    assert problem.startswith(expected)


def test_layers_may_be_counted_from_the_end() -> None:
    assert resolved(space={"fusion_layer": [-3, -2, -1]}).space.choices["fusion_layer"] == (3, 4, 5)
    assert resolved(facts(sizes=BASE), space={"fusion_layer": [-2]}).space.choices["fusion_layer"] == (10,)
    vpt = resolved(family="vpt", space={"prompt_layer": [-12, -1]}).space
    assert vpt.choices["prompt_layer"] == (0, 11)  # of the image encoder
    assert problems(space={"fusion_layer": [-7, -2]}) == (
        "space.fusion_layer: too small; expected at least -6, since the encoders have 12 and 6 layers, got -7",
    )


@pytest.mark.parametrize("value", [[-1, -2], [-2, -2], [-1, 2], [-1.5], [-2000, -1], ["-1"], []])
def test_other_layers_below_zero_are_refused(value: list[Any]) -> None:
    (problem,) = problems(space={"fusion_layer": value})
    assert problem.startswith(
        "space.fusion_layer: invalid value; expected ascending, distinct whole numbers of at least 0"
    )


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"recipe": {"epochs": 3, "steps": 90}}, "recipe.steps: invalid value; expected null together with epochs: 3"),
        ({"recipe": {"epochs": None}}, "recipe.steps: missing; expected steps (for instance 300) or epochs"),
        ({"supernet": {"steps": 9, "epochs": 2}}, "supernet.epochs: invalid value; expected null together with steps"),
        (
            {"search": {"short_training_steps": 9, "short_training_fraction": 0.1}},
            "search.short_training_fraction: invalid value; expected null together with short_training_steps: 9",
        ),
        ({"search": {"short_training_fraction": 1}}, "search.short_training_fraction: invalid value; expected a numbe"),
        ({"budget": {"trials": None}}, "budget.trials: missing; expected trials"),
        ({"recipe": None}, "recipe: invalid value; expected a mapping, got null"),
        ({"recipe": {"schedule": "auto"}}, "recipe.schedule: invalid value; expected one of cosine, constant, got"),
        ({"family": ["pmf"], "recipe": 3}, "family: invalid value"),
        ({"data": 3}, "data: invalid value; expected a mapping, got 3"),
    ],
)
def test_contradictions_and_wrong_values_are_refused_by_name(sections: dict[str, Any], problem: str) -> None:
    assert problems(**sections)[0].startswith(problem)


def test_initial_architectures_are_checked_once_the_space_is_known() -> None:
    first = {"query_prompts": 4, "query_context_prompts": 4, "fusion_context_prompts": 4, "mapping_width": 192}
    inside = resolved(search={"initial_architectures": [first | {"fusion_layer": 4}]})
    assert inside.search.initial_architectures[0] in inside.space
    (problem,) = problems(search={"initial_architectures": [first | {"fusion_layer": 0}]})
    assert problem.startswith("search.initial_architectures: invalid value; expected an architecture of the space")


def test_equal_files_and_facts_give_equal_values_that_survive_writing_and_reading() -> None:
    config, choices = resolve(draft(), facts(), source="")
    assert (config, choices) == resolve(draft(), facts(), source="")
    assert not config.automatic and {choice.key for choice in choices} == set(draft().automatic)
    assert parse_config(config.as_dict(), source="", base_directory=Path()) == config
    assert resolve(config, facts(7, BASE), source="") == (config, [])


def test_a_draft_survives_writing_and_reading_and_replaced_sections_are_final() -> None:
    config = draft(space={"fusion_layer": [-2]})
    assert parse_config(config.as_dict(), source="", base_directory=Path()) == config
    assert config.as_dict()["space"]["fusion_layer"] == [-2] and config.as_dict()["recipe"]["epochs"] == "auto"
    assert "budget.memory" not in config.replace(budget=config.budget).automatic
    assert "recipe.epochs" in config.replace(budget=config.budget).automatic


def test_name_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "clip art.yaml"
    path.write_text(yaml.safe_dump({"data": {"manifest": "manifest.csv"}}))
    assert load_config(path).name == "clip art"


def test_a_complete_file_leaves_nothing_to_the_program() -> None:
    assert not parse_config(search_values(), source="", base_directory=Path()).automatic
