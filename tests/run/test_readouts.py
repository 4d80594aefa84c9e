"""The readouts of a search, which the linear classifier chooses unless they are searched."""

import io
from dataclasses import replace

import pytest

from nas.common.progress import LineReporter
from nas.config.schema import Config
from nas.models.fusion.linear.architecture import LinearArchitecture
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.run.phases.readouts import ChosenReadouts
from tests.support.search_file import make_search_config


def config_with(readouts: str, image: tuple[int, ...], text: tuple[int, ...]) -> Config:
    config = make_search_config()
    choices = {**config.space.choices, "image_readout": image, "text_readout": text}
    return config.replace(space=replace(config.space, choices=choices), search=config.search.replace(readouts=readouts))


BOTH = (0, 1)


@pytest.mark.parametrize(
    ("image", "text", "linear", "expected"),
    [
        (BOTH, BOTH, (1, 1), ((1,), (1,))),
        (BOTH, BOTH, (0, 1), ((0,), (1,))),
        (BOTH, (0,), (0, 1), ((0,), (0,))),  # what the linear classifier prefers is not in the space
        (BOTH, (1,), (1, 0), ((1,), (1,))),
    ],
)
def test_space_keeps_the_readouts_of_the_linear_classifier_where_it_allows_them(
    image: tuple[int, ...], text: tuple[int, ...], linear: tuple[int, int], expected: tuple[tuple[int, ...], ...]
) -> None:
    config = config_with("linear", image, text)
    space = ChosenReadouts.by_linear(config, LinearArchitecture(*linear)).config(config).space
    assert (space.choices["image_readout"], space.choices["text_readout"]) == expected
    others = [name for name in space.choices if not name.endswith("readout")]
    assert [space.choices[name] for name in others] == [config.space.choices[name] for name in others]
    assert all(architecture in config.space for architecture in space)


def test_searched_readouts_stay_open() -> None:
    config = config_with("searched", BOTH, BOTH)
    chosen = ChosenReadouts.by_linear(config, LinearArchitecture(1, 1))
    assert chosen.config(config) == config
    default = PMFArchitecture(1, 2, 2, 2, 4)
    assert chosen.architecture(default) == default


def test_default_gets_the_readouts_that_the_space_allows() -> None:
    default = PMFArchitecture(1, 2, 2, 2, 4)
    chosen = ChosenReadouts.by_linear(config_with("linear", BOTH, BOTH), LinearArchitecture(0, 1))
    assert chosen.architecture(default) == replace(default, text_readout=1)
    without = ChosenReadouts.by_linear(config_with("linear", (0,), (0,)), LinearArchitecture(1, 1))
    assert without.architecture(default) == default


@pytest.mark.parametrize(
    ("image", "text", "chosen", "expected"),
    [
        (BOTH, BOTH, (1, 1), (0, 0)),
        (BOTH, BOTH, (0, 1), (1, 0)),
        (BOTH, (0,), (1, 0), (0, 0)),
        ((0,), (1,), (0, 1), None),  # the space has no other readouts
    ],
)
def test_variant_of_the_default_reads_whatever_the_default_does_not(
    image: tuple[int, ...], text: tuple[int, ...], chosen: tuple[int, int], expected: tuple[int, int] | None
) -> None:
    config, default = config_with("linear", image, text), PMFArchitecture(1, 2, 2, 2, 4)
    readouts = ChosenReadouts.by_linear(config, LinearArchitecture(*chosen))
    variant = readouts.variant(readouts.architecture(default), config.space)
    wanted = None if expected is None else replace(default, image_readout=expected[0], text_readout=expected[1])
    assert variant == wanted


def test_searched_readouts_need_no_variant() -> None:
    config = config_with("searched", BOTH, BOTH)
    readouts = ChosenReadouts.by_linear(config, LinearArchitecture(1, 1))
    assert readouts.variant(PMFArchitecture(1, 2, 2, 2, 4), config.space) is None


def test_without_a_linear_classifier_the_first_readout_of_the_space_remains() -> None:
    config = config_with("linear", BOTH, (1,))
    space = ChosenReadouts.by_linear(config, None).config(config).space
    assert (space.choices["image_readout"], space.choices["text_readout"]) == ((0,), (1,))


def test_only_a_choice_is_reported() -> None:
    output = io.StringIO()
    config = config_with("linear", BOTH, (1,))
    chosen = ChosenReadouts.by_linear(config, LinearArchitecture(0, 1))
    chosen.report(config, LineReporter(output))
    assert "image readout pooled" in output.getvalue() and "text" not in output.getvalue()
    fixed = config_with("linear", (0,), (1,))
    output = io.StringIO()
    ChosenReadouts.by_linear(fixed, LinearArchitecture(0, 1)).report(fixed, LineReporter(output))
    assert output.getvalue() == ""


def test_kept_readouts_are_stated_with_the_key_that_searches_them() -> None:
    stream = io.StringIO()
    for config in (config_with("linear", BOTH, (0,)), config_with("searched", BOTH, BOTH)):
        ChosenReadouts.by_linear(config, LinearArchitecture(1, 0)).report(config, LineReporter(stream))
    assert stream.getvalue() == (
        "The search keeps image readout mean, which the linear classifier prefers; to search other readouts as well, "
        "set search.readouts: searched\n"
    )
