import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from nas.common.errors import ConfigError
from nas.common.units import BYTES_FORM, TIME_FORM
from nas.config.data_schema import FeaturesConfig
from nas.config.load import load_arms, load_config, parse_config, parse_data
from nas.models.fusion.pmf.architecture import PMFArchitecture
from tests.support.paths import REPOSITORY
from tests.support.search_file import make_search_config, search_values


def write(folder: Path, name: str = "search.yaml", **changes: Any) -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(search_values(**changes)))
    return path


def problems_of(values: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(values, source="file", base_directory=Path("/project"))
    return caught.value.problems


@pytest.mark.parametrize("path", sorted((REPOSITORY / "search_spaces").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_search_files_are_valid(path: Path) -> None:
    for arm in load_arms(path):
        assert arm.config.automatic or arm.config.space.size > 20


@pytest.mark.parametrize(
    ("name", "batch_size", "class_weights"),
    [
        ("pmf_base", 32, "inverse_frequency"),
        ("pmf_large", 32, "inverse_frequency"),
        ("food101", 32, "inverse_frequency"),
        ("mm_imdb", 32, "inverse_frequency"),
        ("snli_ve", 64, "none"),
    ],
)
def test_files_for_the_data_of_the_paper_have_its_recipe_and_encoders(
    name: str, batch_size: int, class_weights: str
) -> None:
    config = load_config(REPOSITORY / "search_spaces" / f"{name}.yaml")
    recipe, size = config.recipe, "large" if name == "pmf_large" else "base"
    assert (recipe.optimizer, recipe.momentum, recipe.weight_decay) == ("sgd", 0.9, 1e-4)
    assert (recipe.batch_size, recipe.class_weights) == (batch_size, class_weights)
    assert config.encoders.image == f"google/vit-{size}-patch16-224-in21k"
    assert config.encoders.text == f"bert-{size}-uncased"
    assert config.data.reader == (name if name in ("food101", "mm_imdb", "snli_ve") else "manifest")


def test_all_problems_are_reported_at_once_with_key_value_and_what_is_allowed(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "wrong.yaml",
        **{
            "seed": True,
            "space.query_prompts": [-1, 2],
            "space.mapping_width": [8, 4],
            "recipe.optimizer": "adam",
            "recipe.epochs": 0,
            "recipe.clip_norm": -1,
            "supernet.sampling": "sandwich",
            "search.stratgy": "tpe",
            "search.evolution": {"population": 4, "parents": 5},
            "budget.memory": "2 gigs",
            "budget.time": 0,
        },
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: 11 problems\n")
    assert caught.value.problems == (
        "seed: invalid value; expected a whole number of at least 0 and at most 2147483647, got true",
        "space.query_prompts: invalid value; expected ascending, distinct whole numbers of at least 0 and at most "
        "65536, for instance [0, 2], or auto, got [-1, 2]",
        "space.mapping_width: invalid value; expected ascending, distinct whole numbers of at least 0 and at most "
        "65536, for instance [0, 2], or auto, got [8, 4]",
        "recipe.optimizer: invalid value; expected one of sgd, adamw, got 'adam'",
        "recipe.clip_norm: invalid value; expected a number above 0 and at most 1000000000, or null, or auto, got -1",
        "recipe.epochs: invalid value; expected a whole number of at least 1 and at most 100000, or null, or auto, "
        "got 0",
        "supernet.architectures_per_step: invalid value; expected at least 3 with sampling: sandwich, got 1",
        "search.evolution.parents: invalid value; expected at most the population of 4, got 5",
        "search.stratgy: unknown key; expected one of answer, constraints, distill, eval_batch, evolution, "
        "finalists, initial_architectures, latency_batch, members, objective, promotion_fraction, proxy_metric, "
        "readouts, rerun_seeds, round_size, short_training_fraction, short_training_lr_scale, short_training_steps, "
        "strategy; did you mean 'strategy'?",
        f"budget.time: invalid value; expected {TIME_FORM}, or null, got 0",
        f"budget.memory: invalid value; expected {BYTES_FORM}, or auto, got '2 gigs'",
    )


def test_long_values_are_shortened() -> None:
    (problem,) = problems_of(search_values(**{"recipe.schedule": "x" * 500}))
    assert len(problem) < 200 and problem.endswith("xxx'") and "x...x" in problem


def test_genes_that_differ_within_a_model_survive_writing_and_reading() -> None:
    config = make_search_config(
        **{
            "space.num_layers": 3,
            "space.query_prompts": {"choices": [1, 2], "per": "layer"},
            "space.mapping_width": {"choices": [4, 8], "per": "layer_and_direction"},
            "space.fusion_context_prompts": {"choices": [0, 1]},
        },
    )
    assert config.space.granularity == {"query_prompts": "layer", "mapping_width": "layer_and_direction"}
    assert config.space.num_layers == 3 and config.space.choices["fusion_context_prompts"] == (0, 1)
    assert parse_config(config.as_dict(), source="", base_directory=Path()) == config


def test_mistakes_in_genes_that_differ_within_a_model_are_reported() -> None:
    assert problems_of(
        search_values(
            **{
                "space.query_prompts": {"choices": [2, 1], "per": "layers", "form": "round"},
                "space.query_context_prompts": {"choices": [0, 1], "per": "direction"},
                "space.mapping_width": {"choices": [4], "per": "layer"},
            },
        )
    ) == (
        "space.query_prompts.choices: invalid value; expected ascending, distinct whole numbers of at least 0 and at "
        "most 65536, for instance [0, 2], got [2, 1]",
        "space.query_prompts.per: invalid value; expected one of model, layer, direction, layer_and_direction, got "
        "'layers'",
        "space.query_prompts.form: unknown key; expected one of choices, per",
        "space.num_layers: missing; expected the number of layers of the shallower encoder, since "
        "query_context_prompts, mapping_width can differ within a model",
    )


@pytest.mark.parametrize(
    ("family", "space", "problem"),
    [
        ("mbt", {"fusion_layer": [0], "bottlenecks": [1], "query_prompts": [1]}, "space.query_prompts: unknown key"),
        ("pmf2", {}, "family: invalid value; expected one of pmf, "),
        (
            "vpt",
            {"num_layers": 2, "prompt_layer": [2], "prompts": [1]},
            "space.num_layers: invalid value; expected more",
        ),
    ],
)
def test_space_is_checked_against_the_genes_of_the_family(family: str, space: dict[str, Any], problem: str) -> None:
    (found,) = problems_of(search_values(family=family, space=space))
    assert found.startswith(problem)


def test_family_without_genes_needs_no_space() -> None:
    values = search_values(family="text_only")
    del values["space"]
    assert parse_config(values, source="file", base_directory=Path()).space.size == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"supernet.sampling": "sandwich"},
            "supernet.architectures_per_step: invalid value; expected at least 3 with sampling: sandwich, got 1",
        ),
        (
            {"supernet.distillation": 0.5},
            "supernet.distillation: invalid value; expected 0 without sampling: sandwich, got 0.5",
        ),
        (
            {"supernet.sampling": "fair"},
            "supernet.sampling: invalid value; expected one of uniform, sandwich, balanced, got 'fair'",
        ),
    ],
)
def test_supernet_sampling_has_conditions(changes: dict[str, object], expected: str) -> None:
    assert problems_of(search_values(**changes)) == (expected,)


def test_supernet_is_sampled_by_the_sandwich_rule_by_default() -> None:
    supernet = make_search_config(supernet={"steps": 12}).supernet
    assert (supernet.sampling, supernet.architectures_per_step, supernet.distillation) == ("sandwich", 4, 0.0)


def test_short_training_uses_a_tenth_of_the_learning_rates_by_default() -> None:
    assert make_search_config().search.short_training_lr_scale == 0.1
    assert problems_of(search_values(**{"search.short_training_lr_scale": 0})) == (
        "search.short_training_lr_scale: invalid value; expected a number above 0 and at most 1, got 0",
    )


def test_objectives_and_constraints_survive_writing_and_reading() -> None:
    config = make_search_config(
        **{
            "search.objective": ["macro_f1", "peak_memory", "latency"],
            "search.initial_architectures": [PMFArchitecture(1, 2, 0, 1, 8).values()],
            "search.constraints": ["peak_memory <= 1.5GiB", "latency <= 0.03ms", "trainable_parameters <= 500k"],
        },
    )
    assert (config.search.objective, config.search.costs) == ("macro_f1", ("peak_memory", "latency"))
    assert [constraint.bound for constraint in config.search.constraints] == [3 * 2**29, 0.03e-3, 500_000]
    assert config.search.initial_architectures == (PMFArchitecture(1, 2, 0, 1, 8),)
    assert parse_config(config.as_dict(), source="", base_directory=Path()) == config


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"search.objective": ["latency", "accuracy"]}, "search.objective: invalid value; expected one of accuracy, "),
        ({"search.objective": ["accuracy", "accuracy"]}, "latency, or auto, got ['accuracy', 'accuracy']"),
        (
            {"search.objective": []},
            "or a list of one of them and any of peak_memory, trainable_parameters, latency, or auto, got []",
        ),
        (
            {"search.initial_architectures": [{"fusion_layer": 1}]},
            "search.initial_architectures: invalid value; expected a mapping of fusion_layer, query_prompts, "
            "query_context_prompts, fusion_context_prompts, mapping_width, image_readout, text_readout to values, got "
            "{'fusion_layer': 1}",
        ),
        (
            {"search.initial_architectures": [PMFArchitecture(1, 2, 0, 1, 64).values()]},
            "search.initial_architectures: invalid value; expected an architecture of the space, got {'fusion_layer'",
        ),
        (
            {"search.initial_architectures": 3},
            "search.initial_architectures: invalid value; expected a list of at most 1,000 architectures of the "
            "space, each a mapping of genes to values, got 3",
        ),
        ({"search.constraints": "latency <= 1s"}, "search.constraints: invalid value; expected a list of bounds"),
        (
            {"search.constraints": ["latency >= 1s"]},
            "search.constraints: invalid value; expected peak_memory or trainable_parameters or latency with <= and a",
        ),
        (
            {"search.constraints": ["latency <= 1s", "latency <= 2s"]},
            "search.constraints: invalid value; expected one bound on latency, got 'latency <= 2s'",
        ),
        (
            {"search.constraints": ["latency <= 1"]},
            "search.constraints: invalid value; expected a number with ms or s, at most 1e+18 for latency, got",
        ),
        (
            {"search.objective": ["accuracy", "latency"], "deterministic": True},
            "search.objective: invalid value; expected no measured cost with deterministic: true, since it is not "
            "reproducible, got 'latency'",
        ),
        (
            {"search.constraints": ["balanced_accuracy >= 0.5"], "data.labels": "several"},
            "search.constraints: invalid value; expected one of accuracy, macro_f1, micro_f1, macro_f1_tuned, "
            "micro_f1_tuned, mean_average_precision for multi-label data, got 'balanced_accuracy'",
        ),
    ],
)
def test_invalid_objectives_are_rejected(changes: dict[str, Any], expected: str) -> None:
    (problem,) = problems_of(search_values(**changes))
    assert expected in problem


def test_every_invalid_constraint_and_architecture_is_reported() -> None:
    changes = {"search.constraints": ["a", "b <= 1"], "search.initial_architectures": [{"x": 1}, 2]}
    shown = ["got 'a'", "got 'b <= 1'", "got {'x': 1}", "got 2"]
    for problem, end in zip(problems_of(search_values(**changes)), shown, strict=True):
        assert problem.endswith(end)


def test_only_data_cannot_be_left_out() -> None:
    values = search_values()
    del values["data"]
    assert problems_of(values) == ("data: missing; expected a mapping",)


@pytest.mark.parametrize("section", ["data", "search", "budget"])
def test_section_that_is_no_mapping_is_one_problem(section: str) -> None:
    assert problems_of(search_values(**{section: [1]})) == (f"{section}: invalid value; expected a mapping, got [1]",)


def test_attribute_names_are_no_keys_of_the_file() -> None:
    found = problems_of(search_values(**{"budget.time_seconds": 60, "features": {"disk_bytes": 1}}))
    assert [problem.partition(";")[0] for problem in found] == [
        "features.disk_bytes: unknown key",
        "budget.time_seconds: unknown key",
    ]


def test_keys_that_are_no_text_are_unknown() -> None:
    assert problems_of({1: 2} | search_values())[0].startswith("1: unknown key; expected one of budget, compare, data")


def test_duplicate_key_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path, "twice.yaml")
    path.write_text(path.read_text() + "\nname: again\n")
    with pytest.raises(ConfigError, match=r"twice.yaml: 1 problem\n.*not valid YAML: line \d+: duplicate key 'name'"):
        load_config(path)


@pytest.mark.parametrize("content", ["- a list", "a: [1", "just text", ""])
def test_file_without_a_mapping_is_rejected(tmp_path: Path, content: str) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=f"{path}: 1 problem"):
        load_config(path)


def test_missing_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: no such file"):
        load_config(tmp_path / "none.yaml")


def test_budget_needs_time_or_trials() -> None:
    assert problems_of(search_values(**{"budget.trials": None})) == (
        "budget.trials: missing; expected trials (for instance 200), budget.time (for instance 4m), or both",
    )


def test_deterministic_search_has_a_budget_in_trials_only() -> None:
    (problem,) = problems_of(search_values(**{"budget.time": "4m", "deterministic": True}))
    assert problem.startswith("budget.time: invalid value; expected a budget in trials only (--budget 200)")


def test_configuration_survives_writing_and_reading() -> None:
    config = make_search_config(**{"budget.time": "1h30m", "budget.memory": "1.5GiB"})
    assert (config.budget.time_seconds, config.budget.memory_bytes) == (5400.0, 3 * 2**29)
    text = yaml.safe_dump(config.as_dict())
    assert parse_config(yaml.safe_load(text), source="copy", base_directory=Path("elsewhere")) == config


def test_configuration_survives_pickling() -> None:
    config = make_search_config(**{"search.initial_architectures": [PMFArchitecture(1, 2, 0, 1, 8).values()]})
    assert pickle.loads(pickle.dumps(config)) == config


def test_features_have_defaults_and_every_key_is_checked() -> None:
    assert make_search_config().features == FeaturesConfig(
        dtype="float16", disk_bytes=20 * 2**30, views=1, attention=False
    )
    features = {"dtype": "float32", "disk": "512MiB", "views": 4, "attention": True}
    assert make_search_config(features=features).features == FeaturesConfig(
        dtype="float32", disk_bytes=512 * 2**20, views=4, attention=True
    )
    wrong = {"dtype": "float64", "disk": "much", "views": 0, "attention": "yes", "view": 2}
    assert problems_of(search_values(features=wrong)) == (
        "features.dtype: invalid value; expected one of float16, float32, int8, got 'float64'",
        f"features.disk: invalid value; expected {BYTES_FORM}, got 'much'",
        "features.views: invalid value; expected a whole number of at least 1 and at most 100, got 0",
        "features.attention: invalid value; expected true or false, got 'yes'",
        "features.view: unknown key; expected one of attention, disk, dtype, storage, views; did you mean 'views'?",
    )


@pytest.mark.parametrize("disk", ["0B", None, 1024])
def test_disk_budget_needs_a_positive_number_with_a_unit(disk: str | None) -> None:
    (problem,) = problems_of(search_values(features={"disk": disk}))
    assert problem.startswith("features.disk: invalid value; expected ")


def test_relative_paths_are_resolved_against_the_folder_of_the_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path))
    assert config.data.manifest == str(tmp_path / "manifest.csv")
    assert config.data.images == str(tmp_path / "images")
    assert config.encoders.image == str(tmp_path / "vit")


def test_images_are_in_the_folder_of_the_manifest_by_default() -> None:
    assert make_search_config(data={"manifest": "food/list.csv"}).data.images == "/project/food"


@pytest.mark.parametrize("key", ["data.manifest", "data.images", "encoders.image"])
def test_blank_path_is_named_with_its_key(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"- {key}: is blank; expected a .*, got ' '"):
        load_config(write(tmp_path, **{key: " "}))


def test_names_of_the_hub_stay_unchanged_unless_a_folder_has_that_name(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    config = load_config(write(tmp_path, **{"encoders.image": "local", "encoders.text": "bert-base-uncased"}))
    assert (config.encoders.image, config.encoders.text) == (str(tmp_path / "local"), "bert-base-uncased")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (
            {"reader": "food102"},
            "data.reader: invalid value; expected one of manifest, image_folder, datasets, food101, mm_imdb, snli_ve, "
            "got 'food102'",
        ),
        ({}, "data.manifest: missing; expected a path"),
        ({"reader": "food101"}, "data.folder: missing; expected a path"),
        (
            {"reader": "snli_ve", "folder": "x", "manifest": "y"},
            "data.manifest: not allowed; expected no such key with reader: snli_ve, got '/project/y'",
        ),
        (
            {"manifest": "x", "folder": "y"},
            "data.folder: not allowed; expected no such key with reader: manifest, got '/project/y'",
        ),
        ({"manifest": "x", "labels": "two"}, "data.labels: invalid value; expected one of one, several, got 'two'"),
        (
            {"manifest": "x", "held_out": {"validation": 1.5}},
            "data.held_out.validation: invalid value; expected a fraction below 1, or a whole number of images, got",
        ),
        (
            {"reader": "snli_ve", "folder": "x", "labels": "several"},
            "data.labels: not allowed; expected no such key with reader: snli_ve, got 'several'",
        ),
        (
            {"manifest": "x", "texts": "pages"},
            "data.texts: not allowed; expected no such key with reader: manifest, got 'pages'",
        ),
        (
            {"manifest": "x", "held_out": {"dev": 1}},
            "data.held_out.dev: unknown key; expected one of seed, test, valid",
        ),
        (
            {"manifest": "x", "class_prompts": ["a {}", "no class"]},
            "data.class_prompts: invalid value; expected a text with exactly one {}, such as 'a photo of a {}', or a "
            "list of different ones, got 'no class'",
        ),
        (
            {"manifest": "x", "class_prompts": "{} and {}"},
            "data.class_prompts: invalid value; expected a text with exactly one {}, such as 'a photo of a {}', or a "
            "list of different ones, got '{} and {}'",
        ),
        (
            {"manifest": "x", "max_text_tokens": 1},
            "data.max_text_tokens: invalid value; expected a whole number of at least 2 and at most 1000000, or null, "
            "got 1",
        ),
    ],
)
def test_invalid_data_sections_name_the_key(data: dict[str, Any], problem: str) -> None:
    (found,) = problems_of(search_values(data=data))
    assert found.startswith(problem)
    with pytest.raises(ConfigError) as caught:
        parse_data(data, source="--data", base_directory=Path("/project"))
    assert caught.value.problems == (found,)


def test_reader_of_a_distributed_data_set_has_a_folder_and_a_default_for_validation() -> None:
    data = {"reader": "food101", "folder": "food", "texts": "pages"}
    config = make_search_config(data=data)
    assert config.data.folder == "/project/food" and config.data.max_text_tokens is None
    assert (config.data.held_out.validation, config.data.held_out.test) == (5000, 0)
    assert make_search_config(data=data | {"held_out": {"seed": 1}}).data.held_out.validation == 5000
    assert make_search_config(data=data | {"held_out": {"validation": 0.1}}).data.held_out.validation == 0.1
    assert parse_config(config.as_dict(), source="file", base_directory=Path()) == config


HOSTILE_NAMES = [
    "../../x",
    "/abs",
    "",
    ".",
    "..",
    "-x",
    " x",
    "x ",
    "x.",
    "a/b",
    "a\\b",
    "a\nb",
    "a\0b",
    "NUL",
    "con.x",
]


@pytest.mark.parametrize("name", [*HOSTILE_NAMES, "x" * 201, "é" * 101], ids=ascii)
def test_name_that_no_folder_should_have_is_refused(name: str) -> None:
    (problem,) = problems_of(search_values(name=name))
    assert problem.startswith("name: invalid value; expected a name of at most 200 bytes that a folder can have")


@pytest.mark.parametrize("name", ["mm-imdb", "Früchte 2", "検索", "a.b"])
def test_name_may_have_any_script(name: str) -> None:
    assert make_search_config(name=name).name == name


BOUNDED = (
    "recipe.batch_size recipe.weight_decay recipe.epochs threads supernet.architectures_per_step search.round_size "
    "search.eval_batch budget.memory budget.time data.max_text_tokens"
)


@pytest.mark.parametrize(
    "value",
    [10**9, 10**19, 10**400, 10**5000, "9" * 5000, float("inf"), float("nan"), "\ud800"],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("key", BOUNDED.split())
def test_number_beyond_what_could_ever_fit_is_one_short_problem(key: str, value: object) -> None:
    (problem,) = problems_of(search_values(**{key: value}))
    assert problem.startswith(f"{key}: ") and "; expected " in problem and len(problem) < 400


@pytest.mark.parametrize("value", [10**9, 10**19, float("inf"), True, "4", [[1]], [[1, 10**9]]])
def test_gene_beyond_what_could_ever_fit_is_refused(value: object) -> None:
    (problem,) = problems_of(search_values(**{"space.mapping_width": [4, value]}))
    assert problem.startswith("space.mapping_width: invalid value; ") and "at most 65536" in problem
    first = PMFArchitecture(1, 2, 0, 1, 8).values() | {"mapping_width": value}
    (problem,) = problems_of(search_values(**{"search.initial_architectures": [first]}))
    assert problem.startswith("search.initial_architectures: invalid value; ")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (
            {"columns": {"text": "label"}},
            "data.columns.label: invalid value; expected a column of its own, not that of",
        ),
        (
            {"columns": {"split": "image"}},
            "data.columns.split: invalid value; expected a column of its own, not that of",
        ),
        ({"columns": {"txt": "label"}}, "data.columns.txt: unknown key; expected one of image, label, split, text"),
        (
            {"reader": "image_folder", "manifest": None, "folder": "x", "columns": {"image": "path"}},
            "data.columns.image: not allowed; expected no such key with reader: image_folder",
        ),
    ],
)
def test_column_without_a_role_of_its_own_is_refused(data: dict[str, Any], problem: str) -> None:
    (found,) = problems_of(search_values(data={"manifest": "x"} | data))
    assert found.startswith(problem)
