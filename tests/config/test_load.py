from pathlib import Path
from typing import Any

import pytest
import yaml

from nas.common.errors import ConfigError
from nas.common.units import BYTES_FORM
from nas.config.load import config_as_dict, load_config, parse_config
from nas.config.schema import FeaturesConfig
from nas.models.fusion.pmf.architecture import PMFArchitecture
from tests.support.paths import REPOSITORY
from tests.support.project import Project


@pytest.mark.parametrize("path", sorted((REPOSITORY / "search_spaces").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_files_are_valid(path: Path) -> None:
    config = load_config(path)
    assert config.space.size > 20


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
def test_files_for_the_papers_data_have_its_recipe_and_encoders(name: str, batch_size: int, class_weights: str) -> None:
    config = load_config(REPOSITORY / "search_spaces" / f"{name}.yaml")
    recipe, size = config.recipe, "large" if name == "pmf_large" else "base"
    assert (recipe.optimizer, recipe.momentum, recipe.weight_decay) == ("sgd", 0.9, 1e-4)
    assert (recipe.batch_size, recipe.class_weights) == (batch_size, class_weights)
    assert config.encoders.image == f"google/vit-{size}-patch16-224-in21k"
    assert config.encoders.text == f"bert-{size}-uncased"
    assert config.data.reader == (name if name in ("food101", "mm_imdb", "snli_ve") else "manifest")


def test_every_problem_is_reported_at_once_with_key_value_and_what_is_allowed(project: Project) -> None:
    path = project.write(
        "wrong.yaml",
        **{
            "space.query_prompts": [0, 2],
            "space.mapping_width": [8, 4],
            "recipe.optimizer": "adam",
            "recipe.epochs": 0,
            "recipe.clip_norm": -1,
            "search.stratgy": "tpe",
            "budget.memory": "2 gigs",
            "budget.time": 0,
        },
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: 8 problems")
    for expected in (
        "space.query_prompts: [0, 2] is not allowed; expected ascending, distinct whole numbers of at least 1",
        "space.mapping_width: [8, 4] is not allowed",
        "recipe.optimizer: 'adam' is not allowed; expected one of sgd, adamw",
        "recipe.epochs: 0 is not allowed; expected a whole number of at least 1",
        "recipe.clip_norm: -1 is not allowed; expected a number above 0",
        "search.stratgy: unknown key; did you mean 'strategy'? allowed:",
        "budget.memory: expected a number with a unit from",
        "budget.time: expected numbers with units from",
    ):
        assert expected in message


def test_a_gene_can_be_free_and_the_configuration_survives_being_written(project: Project) -> None:
    source = project.write(
        "free.yaml",
        **{
            "space.num_layers": 3,
            "space.query_prompts": {"choices": [1, 2], "per": "layer"},
            "space.mapping_width": {"choices": [4, 8], "per": "layer_and_direction"},
            "space.fusion_context_prompts": {"choices": [0, 1]},
        },
    )
    config = load_config(source)
    assert config.space.granularity == {"query_prompts": "layer", "mapping_width": "layer_and_direction"}
    assert config.space.num_layers == 3 and config.space.choices["fusion_context_prompts"] == (0, 1)
    assert parse_config(config_as_dict(config), source="", base_directory=Path()) == config


def test_a_free_gene_without_depth_and_other_mistakes_in_it_are_reported(project: Project) -> None:
    source = project.write(
        "wrong_free.yaml",
        **{
            "space.query_prompts": {"choices": [2, 1], "per": "layers", "form": "round"},
            "space.query_context_prompts": {"choices": [0, 1], "per": "direction"},
            "space.mapping_width": {"choices": [4], "per": "layer"},
        },
    )
    with pytest.raises(ConfigError) as caught:
        load_config(source)
    for expected in (
        "space.query_prompts.choices: [2, 1] is not allowed",
        "space.query_prompts.per: 'layers' is not allowed; expected one of model, layer, direction",
        "space.query_prompts.form: unknown key",
        "space.num_layers: is missing; expected the number of layers of the shallower encoder, since "
        "query_context_prompts, mapping_width can differ within a model",
    ):
        assert expected in str(caught.value)
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"supernet.sampling": "sandwich"},
            "supernet.architectures_per_step: 1 is not allowed; expected at least 3 with sampling: sandwich",
        ),
        (
            {"supernet.distillation": 0.5},
            "supernet.distillation: 0.5 is not allowed; expected 0 without sampling: sandwich",
        ),
        ({"supernet.sampling": "fair"}, "'fair' is not allowed; expected one of uniform, sandwich, balanced"),
    ],
)
def test_samplings_of_the_supernet_have_their_conditions(
    project: Project, changes: dict[str, object], expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(project.write("sampling.yaml", **changes))
    assert expected in str(caught.value) and len(caught.value.problems) == 1


def test_a_supernet_of_which_only_the_length_is_said_is_sampled_by_the_sandwich_rule(project: Project) -> None:
    supernet = load_config(project.write("short.yaml", supernet={"steps": 12})).supernet
    assert (supernet.sampling, supernet.architectures_per_step, supernet.distillation) == ("sandwich", 4, 0.0)


def test_short_training_takes_a_tenth_of_the_learning_rates_unless_said_otherwise(project: Project) -> None:
    assert load_config(project.write("rates.yaml")).search.short_training_lr_scale == 0.1
    with pytest.raises(
        ConfigError, match=r"search.short_training_lr_scale: 0 is not allowed; expected a number above 0"
    ):
        load_config(project.write("rates.yaml", **{"search.short_training_lr_scale": 0}))


def test_objectives_and_bounds_survive_being_written(project: Project) -> None:
    source = project.write(
        "costs.yaml",
        **{
            "search.objective": ["macro_f1", "peak_memory", "latency"],
            "search.initial_architectures": [PMFArchitecture(1, 2, 0, 1, 8).values()],
            "search.constraints": ["peak_memory <= 1.5GiB", "latency <= 0.03ms", "trainable_parameters <= 500k"],
        },
    )
    config = load_config(source)
    assert (config.search.objective, config.search.costs) == ("macro_f1", ("peak_memory", "latency"))
    assert [constraint.bound for constraint in config.search.constraints] == [3 * 2**29, 0.03e-3, 500_000]
    assert parse_config(config_as_dict(config), source="", base_directory=Path()) == config


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"search.objective": ["latency", "accuracy"]}, "or a list of one of them and any of"),
        ({"search.objective": ["accuracy", "accuracy"]}, "search.objective: ['accuracy', 'accuracy'] is not allowed"),
        (
            {"search.initial_architectures": [{"fusion_layer": 1}]},
            "search.initial_architectures: {'fusion_layer': 1} is not allowed; expected a list of",
        ),
        (
            {"search.initial_architectures": 3},
            "search.initial_architectures: 3 is not allowed; expected a list of architectures of the space",
        ),
        ({"search.objective": []}, "search.objective: [] is not allowed"),
        ({"search.constraints": "latency <= 1s"}, "expected a list of bounds"),
        ({"search.constraints": ["latency >= 1s"]}, "search.constraints: expected peak_memory or"),
        (
            {"search.constraints": ["latency <= 1s", "latency <= 2s"]},
            "search.constraints: 'latency <= 2s' is not allowed; expected one bound on latency",
        ),
        ({"search.constraints": ["latency <= 1"]}, "search.constraints: latency: expected a number with ms or s"),
        (
            {"search.objective": ["accuracy", "latency"], "deterministic": True},
            "latency are not allowed with deterministic: true",
        ),
    ],
)
def test_objectives_that_cannot_be_are_refused(project: Project, changes: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(project.write("objectives.yaml", **changes))
    assert expected in str(caught.value) and len(caught.value.problems) == 1


@pytest.mark.parametrize("section", ["data", "encoders", "space", "recipe", "supernet", "search", "budget"])
def test_a_missing_section_is_one_problem(project: Project, section: str) -> None:
    values = project.values()
    del values[section]
    with pytest.raises(ConfigError) as caught:
        parse_config(values, source="file", base_directory=project.root)
    assert caught.value.problems[0] == f"{section}: is missing; expected a mapping"


def test_a_key_that_is_there_twice_is_refused(project: Project) -> None:
    path = project.write("twice.yaml")
    path.write_text(path.read_text() + "\nname: again\n")
    with pytest.raises(ConfigError, match=r"twice.yaml: 1 problem\n.* the key 'name' is there twice in .* line"):
        load_config(path)


@pytest.mark.parametrize("content", ["- a list", "a: [1", "just text", ""])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=str(path)):
        load_config(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "none.yaml")


def test_a_budget_needs_time_or_trials(project: Project) -> None:
    values = project.values(**{"budget.trials": None})
    with pytest.raises(ConfigError, match="budget: needs time"):
        parse_config(values, source="file", base_directory=project.root)


def test_a_configuration_survives_being_written_and_read(project: Project) -> None:
    config = load_config(project.write("whole.yaml", **{"budget.time": "1h30m", "budget.memory": "1.5GiB"}))
    text = yaml.safe_dump(config_as_dict(config))
    assert parse_config(yaml.safe_load(text), source="copy", base_directory=Path("elsewhere")) == config


def test_features_have_defaults_and_every_key_is_checked(project: Project) -> None:
    config = load_config(project.write("features.yaml"))
    assert config.features == FeaturesConfig(dtype="float16", disk_bytes=20 * 2**30, views=1, attention=False)
    values = project.values() | {"features": {"dtype": "float32", "disk": "512MiB", "views": 4, "attention": True}}
    config = parse_config(values, source="file", base_directory=project.root)
    assert config.features == FeaturesConfig(dtype="float32", disk_bytes=512 * 2**20, views=4, attention=True)
    values["features"] = {"dtype": "float64", "disk": "much", "views": 0, "attention": "yes", "view": 2}
    with pytest.raises(ConfigError) as caught:
        parse_config(values, source="file", base_directory=project.root)
    assert caught.value.problems == (
        "features.dtype: 'float64' is not allowed; expected one of float16, float32",
        f"features.disk: expected {BYTES_FORM}, got 'much'",
        "features.views: 0 is not allowed; expected a whole number of at least 1 and at most 100",
        "features.attention: 'yes' is not allowed; expected true or false",
        "features.view: unknown key; did you mean 'views'? allowed: attention, disk, dtype, views",
    )


@pytest.mark.parametrize("disk", ["0B", None])
def test_a_disk_budget_of_nothing_is_refused(project: Project, disk: str | None) -> None:
    values = project.values() | {"features": {"disk": disk}}
    with pytest.raises(ConfigError, match=r"features\.disk: .*expected"):
        parse_config(values, source="file", base_directory=project.root)


def test_relative_paths_are_meant_from_the_files_folder(project: Project) -> None:
    config = load_config(project.write("paths.yaml"))
    assert config.data.manifest == str(project.manifest)
    assert config.encoders.image == str(project.root / "vit")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (
            {"reader": "food102"},
            "data.reader: 'food102' is not allowed; expected one of manifest, image_folder, datasets",
        ),
        ({"reader": "food101"}, "data.folder: is missing; expected a text"),
        (
            {"reader": "snli_ve", "folder": "x", "manifest": "y"},
            "data.manifest: 'y' is not allowed; expected nothing with reader: snli_ve",
        ),
        ({"manifest": "x", "folder": "y"}, "data.folder: 'y' is not allowed; expected nothing with reader: manifest"),
        ({"manifest": "x", "labels": "two"}, "data.labels: 'two' is not allowed; expected one of one, several"),
        (
            {"manifest": "x", "held_out": {"validation": 1.5}},
            "data.held_out.validation: 1.5 is not allowed; expected a share below 1, or a whole number of images",
        ),
        (
            {"reader": "snli_ve", "folder": "x", "labels": "several"},
            "data.labels: 'several' is not allowed; expected nothing with reader: snli_ve",
        ),
        ({"manifest": "x", "texts": "pages"}, "data.texts: 'pages' is not allowed; expected nothing with reader"),
        ({"manifest": "x", "held_out": {"dev": 1}}, "data.held_out.dev: unknown key"),
        ({"manifest": "x", "max_text_tokens": 1}, "data.max_text_tokens: 1 is not allowed; expected a whole number of"),
    ],
)
def test_wrong_data_sections_name_the_key(project: Project, data: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(project.values() | {"data": data}, source="file", base_directory=project.root)
    assert any(found.startswith(problem) for found in caught.value.problems), caught.value.problems


def test_a_folder_of_a_distributed_data_set_and_what_is_held_out(project: Project) -> None:
    data = {"reader": "food101", "folder": "food", "texts": "pages"}
    config = parse_config(project.values() | {"data": data}, source="file", base_directory=project.root)
    assert config.data.folder == str(project.root / "food") and config.data.max_text_tokens is None
    assert (config.data.held_out.validation, config.data.held_out.test) == (5000, 0)
    again = parse_config(config_as_dict(config), source="file", base_directory=project.root)
    assert again == config
