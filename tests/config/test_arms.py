"""Search files that list several encoders or families."""

from pathlib import Path
from typing import Any

import pytest

from nas.common.errors import ConfigError
from nas.config.arms import MAX_ARMS, expand, unique
from nas.config.load import load_arms, load_config, load_fixed_places
from tests.support.project import Project

ENCODERS = {"image": ["./vit", "google/vit-base"], "text": ["./bert", "~/bert"]}


def two_families(project: Project, **changes: Any) -> Path:
    return project.write("arms.yaml", **{"family": ["pmf", "vpt"], "space": "auto", **changes})


def test_every_combination_is_an_arm_with_one_of_each(project: Project) -> None:
    space = {"pmf": {"query_prompts": [1, 3]}, "vpt": {"prompts": [2, 5]}}
    arms = load_arms(two_families(project, encoders=ENCODERS, space=space, **{"features": {"disk": "8GiB"}}))
    assert [arm.name for arm in arms] == [
        f"{image}+bert{number}" for image in ("vit", "vit-base") for number in ("+pmf", "+vpt", "+pmf-2", "+vpt-2")
    ]
    home = str(Path("~/bert").expanduser())
    expected = [
        (image, text, family)
        for image in (str(project.root / "vit"), "google/vit-base")
        for text in (str(project.root / "bert"), home)
        for family in ("pmf", "vpt")
    ]
    assert [(arm.config.encoders.image, arm.config.encoders.text, arm.config.family) for arm in arms] == expected
    assert [arm.config.space.choices.get("query_prompts") for arm in arms[:2]] == [(1, 3), None]
    assert arms[1].config.space.choices["prompts"] == (2, 5)
    assert {arm.config.features.disk_bytes for arm in arms} == {2**30}, "all arms together have features.disk"
    assert [arm.fixed.get("encoders.text") for arm in arms[:4]] == [None, None, "~/bert", "~/bert"]


def test_list_of_one_is_as_if_it_were_none(project: Project) -> None:
    listed: dict[str, Any] = {"encoders": {"image": ["./vit"], "text": ["~/bert"]}, "family": ["pmf"]}
    plain: dict[str, Any] = {"encoders": {"image": "./vit", "text": "~/bert"}}
    (one,), (other,) = (
        load_arms(project.write(f"{index}.yaml", **given)) for index, given in enumerate((listed, plain))
    )
    assert one.config == other.config.replace(name=one.config.name) and one.fixed == other.fixed
    assert load_config(project.root / "0.yaml") == one.config
    assert load_fixed_places(project.root / "0.yaml") == {"encoders.text": "~/bert"}


def test_family_decides_the_values_that_its_file_leaves_out(project: Project) -> None:
    source = project.write("families.yaml", family=["pmf", "mbt"], space="auto", recipe="auto")
    pmf, mbt = (arm.config.recipe for arm in load_arms(source))
    assert pmf.learning_rates != mbt.learning_rates and pmf.depth_scaling != mbt.depth_scaling


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"family": []}, "family: empty list; expected at least one entry, got []"),
        ({"family": ["pmf", "pmf"]}, "family.1: listed twice; expected entries that differ, got 'pmf'"),
        ({"family": ["pmf", "PMF"], "space": "auto"}, "family: invalid value; expected one of pmf, image_only"),
        ({"family": ["pmf", 3]}, "family.1: invalid value; expected text, got 3"),
        ({"family": ["pmf", ["vpt"]]}, "family.1: invalid value; expected text, got ['vpt']"),
        ({"encoders": {"image": ["./vit", "./x/../vit"], "text": "./bert"}}, "encoders.image.1: listed twice"),
        ({"encoders": {"image": "./vit", "text": [""]}}, "encoders.text.0: invalid value; expected text, got ''"),
        (
            {"family": ["pmf", "vpt"], "space": {"fusion_layer": [1]}},
            "space: unknown key; with several families, expected any of 'pmf', 'vpt', got 'fusion_layer'",
        ),
        ({"family": ["pmf", "vpt"], "space": 3}, "space: invalid value; expected a mapping of families"),
        (
            {"family": ["pmf", "vpt"], "space": {"vpt": {"bottlenecks": [1]}}},
            "space.bottlenecks: unknown key; expected one of",
        ),
        (
            {"family": ["pmf", "vpt"], "space": "auto", "search.initial_architectures": [{"prompts": 1}]},
            "search.initial_architectures: not allowed with several families",
        ),
        (
            {"encoders": {"image": [f"a{index}" for index in range(9)], "text": [f"b{index}" for index in range(9)]}},
            f"encoders.image, encoders.text: too many entries; expected at most {MAX_ARMS} combinations",
        ),
    ],
)
def test_invalid_list_is_named_with_its_entry(project: Project, changes: dict[str, Any], problem: str) -> None:
    source = project.write("wrong.yaml", **changes)
    with pytest.raises(ConfigError) as caught:
        load_arms(source)
    assert any(line.startswith(problem) for line in caught.value.problems), caught.value.problems


def test_problem_of_all_arms_is_listed_once(project: Project) -> None:
    with pytest.raises(ConfigError) as caught:
        load_arms(two_families(project, **{"recipe.batch_size": 0}))
    assert len(caught.value.problems) == 1 and caught.value.problems[0].startswith("recipe.batch_size: ")


def test_command_of_one_search_refuses_several_arms(project: Project) -> None:
    with pytest.raises(
        ConfigError, match="2 combinations; expected one image encoder, one text encoder and one family"
    ):
        load_config(two_families(project))


def test_lists_are_inherited_and_replaced_as_a_whole(project: Project) -> None:
    two_families(project, encoders=ENCODERS)
    child = project.root / "child.yaml"
    child.write_text("extends: arms.yaml\nencoders: {text: ./bert}\n")
    assert [arm.name for arm in load_arms(child)] == [
        "vit+bert+pmf",
        "vit+bert+vpt",
        "vit-base+bert+pmf",
        "vit-base+bert+vpt",
    ]


def test_names_of_arms_differ_and_are_names_of_folders() -> None:
    assert unique(["a", "A", "a-2", "a"]) == ["a", "A-2", "a-2-2", "a-3"]
    strange = {"encoders": {"image": ["..", "a b/ü:x", "x" * 300], "text": "package:p/m"}}
    names = [arm.name for arm in expand(strange)]
    assert names == ["encoder+m+pmf", "___x+m+pmf".replace("___", "__"), f"{'x' * 60}+m+pmf"]
