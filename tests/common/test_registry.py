import importlib.metadata
from typing import Any

import pytest

from nas.common.errors import ExtensionError
from nas.common.registry import Registry, load_object

builtins: list[str] = []
registry: Registry[int]


def register_builtins() -> None:
    for index, name in enumerate(builtins):
        registry.register(name, index)


def register_extension() -> None:
    registry.register("extension", 10)


def fail() -> None:
    raise RuntimeError("broken")


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> list[importlib.metadata.EntryPoint]:
    global registry  # noqa: PLW0603 - the functions above are found by their names
    registry = Registry("thing", builtins=f"{__name__}:register_builtins", entry_points="things")
    builtins[:] = ["first", "second"]
    found: list[importlib.metadata.EntryPoint] = []

    def entry_points(**selected: Any) -> list[importlib.metadata.EntryPoint]:
        assert selected == {"group": "things"}
        return found

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    return found


def entry_point(function: str) -> importlib.metadata.EntryPoint:
    return importlib.metadata.EntryPoint("toy", f"{__name__}:{function}", "things")


def test_built_in_entries_come_first_then_those_of_entry_points(
    points: list[importlib.metadata.EntryPoint],
) -> None:
    points.append(entry_point("register_extension"))
    registry.register("early", 5)
    assert registry.names() == tuple(registry) == ("first", "second", "early", "extension")
    assert registry["second"] == registry.get("second") == 1
    assert "second" in registry
    assert len(registry) == 4


def test_unknown_names_list_the_registered_ones(points: list[importlib.metadata.EntryPoint]) -> None:
    assert points == []
    assert registry.get("third") is None
    with pytest.raises(KeyError, match="no thing 'third'; registered: first, second"):
        registry["third"]


def test_a_taken_name_is_rejected(points: list[importlib.metadata.EntryPoint]) -> None:
    assert points == []
    assert "first" in registry
    with pytest.raises(ExtensionError, match="thing 'first': the name is taken; expected a new name"):
        registry.register("first", 7)


def test_a_broken_entry_point_is_named_at_every_read(points: list[importlib.metadata.EntryPoint]) -> None:
    points.append(entry_point("fail"))
    for _ in range(2):
        with pytest.raises(ExtensionError, match=r"entry point toy = .* failed to load \(RuntimeError: broken\)"):
            registry.names()
    points.clear()
    assert registry.names() == ("first", "second")


@pytest.mark.parametrize("target", ["nas.nothing:Name", "nas.common.registry:Nothing", "nas.common.registry", ""])
def test_objects_that_cannot_be_imported_are_errors(target: str) -> None:
    with pytest.raises(ExtensionError, match=r"cannot be imported .* expected package\.module:Name"):
        load_object(target)
