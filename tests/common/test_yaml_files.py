import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nas.common import yaml_files
from nas.common.errors import NasError
from nas.common.yaml_files import YamlError, parse_yaml, read_yaml

TEXTS = st.text() | st.sampled_from(
    ["1e-4", "0b1", "010", "0x1f", "1:30", "1_000", "yes", "NO", "2020-01-01", "=", "<<", ".5", "1.", "~", "'", "+1"]
)
TEXT_CHARACTERS = st.characters(blacklist_categories=["Cs", "Cc"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(TEXT_CHARACTERS)
    | TEXTS.filter(str.isprintable)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS.filter(str.isprintable), inner, max_size=3),
)


@given(VALUES)
def test_everything_that_is_dumped_is_read_back(value: Any) -> None:
    assert parse_yaml(yaml.safe_dump(value)) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2020-13-45", "2020-13-45"),
        ("0b_", "0b_"),
        ("0b11", "0b11"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("no", "no"),
        ("1e-4", "1e-4"),
        ("9" * 5000, "9" * 5000),
        ("-12", -12),
        ("1.5e+3", 1500.0),
        ("-.inf", -float("inf")),
        ("TRUE", True),
        ("", None),
    ],
)
def test_scalars_are_read_without_surprises(text: str, expected: object) -> None:
    assert parse_yaml(f"- {text}") == [expected]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: !!int x", "line 2: tag"),
        ("a: !!python/object/apply:os.system [ls]", "line 1: tag"),
        ("a: !x {}", "line 1: tag"),
        ('a: "\\U00110000"', "line 1: "),
        ('a: "\\ud800"', "line 1: "),
        ("b: 1\na: " + "[" * 100_000, "line 2: nested more than 40 levels deep"),
        ("a: b\nc: \0", r"line 2: control character '\\x00'"),
        ("a: 1\nb: 2\na: 3", "line 3: duplicate key 'a'"),
        ("? [1]\n: 2", "line 1: a key is a list"),
        ("a: &a [*a]", "line 1: alias 'a' is inside the value that it stands for"),
        ("a: *b", "line 1: "),
        ("a: 1\n---\nb: 2", "line 2: a second document"),
        ("a: [1\nb: 2", "line 2: "),
        ("a: &a 1\n<<: *a", "line 2: key '<<'"),
    ],
)
def test_other_yaml_is_refused_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(YamlError, match=f"^{problem}"):
        parse_yaml(text)


def test_aliases_and_merged_mappings_are_read() -> None:
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: *a\nc: {<<: *a, y: 3}\nd: {<<: [{x: 9}, *a]}") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 2},
        "c": {"x": 1, "y": 3},
        "d": {"x": 9, "y": 2},
    }


def levels(count: int, inner: str) -> str:
    return "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} {inner.format(f'*a{n - 1}')}\n" for n in range(1, count))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (levels(12, "[{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]"), "aliases expand to more than"),
        (levels(100, "[[{0}]]"), "nested more than 40 levels deep"),
        (f"a: &a {'x' * 500_000}\nb: [{', '.join(['*a'] * 1000)}]", "aliases expand to more than"),
    ],
)
def test_expansion_of_aliases_is_bounded_before_it_happens(text: str, problem: str) -> None:
    with pytest.raises(YamlError, match=problem):
        parse_yaml(text)


def test_reading_without_libyaml_is_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(yaml_files, "_LOADER", yaml.SafeLoader)
    assert parse_yaml("a: [1, {b: c}]\n'<<': \"x\\ty\"") == {"a": [1, {"b": "c"}], "<<": "x\ty"}
    path = tmp_path / "a.yaml"
    for text in ('a: "\\U00110000"', 'a: "\\ud800"', "a: [" * 3000, "a: `"):
        path.write_text(text)
        with pytest.raises(NasError, match=r"a\.yaml: is not valid YAML: .*; expected a file$"):
            read_yaml(path, expected="a file")


@pytest.mark.parametrize("content", [b"a: \xff", "a: b".encode("utf-16"), b"\x7fELF\0\0"])
def test_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(NasError, match=r"a\.yaml: (cannot be read: byte \d+ is not UTF-8|is not valid YAML: line 1)"):
        read_yaml(path, expected="a file")


def test_what_is_no_regular_file_of_the_allowed_size_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_text("#" * 2000)
    for name in ("/dev/zero", str(tmp_path), str(tmp_path / "pipe"), str(tmp_path / "large")):
        with pytest.raises(NasError, match=f"^{name}: .*expected a file"):
            read_yaml(Path(name), expected="a file", max_bytes=1000)
