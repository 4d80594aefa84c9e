from pathlib import Path
from typing import Any

import pytest
import yaml

from nas.common.errors import ConfigError
from nas.config.load import load_config
from tests.support.search_file import search_values


def write(path: Path, values: dict[str, Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(values))
    return path


def test_mappings_are_merged_and_other_values_replaced(tmp_path: Path) -> None:
    write(tmp_path / "base" / "base.yaml", search_values())
    child = {"extends": "base/base.yaml", "name": "child", "space": {"query_prompts": [4]}, "budget": {"trials": 3}}
    config = load_config(write(tmp_path / "child.yaml", child))
    assert (config.name, config.seed, config.budget.trials) == ("child", 1, 3)
    assert (config.space.choices["query_prompts"], config.space.choices["mapping_width"]) == ((4,), (4, 8))
    assert config.data.manifest == str(tmp_path / "base" / "manifest.csv"), "relative to the file that sets it"


def test_another_family_or_reader_inherits_nothing_that_depends_on_it(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", search_values())
    child = {"extends": "base.yaml", "family": "mbt", "space": {"fusion_layer": [0], "bottlenecks": [1]}}
    child["data"] = {"reader": "food101", "folder": "food"}
    config = load_config(write(tmp_path / "child.yaml", child))
    assert set(config.space.choices) == {"fusion_layer", "bottlenecks"}
    assert (config.data.manifest, config.data.images, config.data.max_text_tokens) == (None, None, 8)


def test_circle_of_files_is_one_error(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", {"extends": "b.yaml"})
    write(tmp_path / "b.yaml", {"extends": "a.yaml"})
    with pytest.raises(ConfigError, match=r"b\.yaml: 1 problem\n.*circular; .*a\.yaml → .*b\.yaml → .*a\.yaml"):
        load_config(tmp_path / "a.yaml")


def test_missing_parent_is_one_error_that_names_both_files(tmp_path: Path) -> None:
    child = write(tmp_path / "child.yaml", {"extends": "none.yaml"})
    with pytest.raises(
        ConfigError, match=r"child\.yaml: 1 problem\n.*extends: .*none\.yaml: cannot be read: no such file"
    ):
        load_config(child)


def test_problem_in_an_extended_file_names_that_file(tmp_path: Path) -> None:
    base = write(tmp_path / "base.yaml", search_values(**{"recipe.epochs": 0, "budget.trials": 0}))
    child = write(tmp_path / "child.yaml", {"extends": "base.yaml", "name": "child", "budget": {"trials": -1}})
    with pytest.raises(ConfigError) as caught:
        load_config(child)
    assert caught.value.source == str(child)
    epochs, trials = caught.value.problems
    assert epochs.startswith("recipe.epochs: ") and epochs.endswith(f", got 0; set in {base}")
    assert trials.startswith("budget.trials: ") and trials.endswith(", got -1")


def test_extended_file_that_is_no_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    child = write(tmp_path / "child.yaml", {"extends": "base.yaml"})
    base = tmp_path / "base.yaml"
    base.write_text("name: a\nseed: !!int 1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(child)
    (problem,) = caught.value.problems
    assert problem.startswith(f"extends: {base}: is not valid YAML: line 2: tag ")
    base.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match=r"extends: .*base\.yaml: .*expected keys with values, got \['a'"):
        load_config(child)


@pytest.mark.parametrize("name", [3, "", "a\0b", "\t", "a\nb", "x" * 300, "a/" * 2100])
def test_name_that_no_file_can_have_is_refused(tmp_path: Path, name: object) -> None:
    with pytest.raises(ConfigError, match=r"child.yaml: 1 problem\n.*extends: .*; expected the path of"):
        load_config(write(tmp_path / "child.yaml", {"extends": name}))


def test_circle_of_links_and_long_chains_are_refused(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    with pytest.raises(ConfigError, match="too many levels of symbolic links"):
        load_config(tmp_path / "loop.yaml")
    for number in range(30):
        write(tmp_path / f"{number}.yaml", {"extends": f"{number + 1}.yaml"})
    with pytest.raises(ConfigError, match="at most 20 that extend each other"):
        load_config(tmp_path / "0.yaml")
