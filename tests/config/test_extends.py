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
        ConfigError, match=r"child\.yaml: 1 problem\n.*extends: .*none\.yaml cannot be read: No such file"
    ):
        load_config(child)
