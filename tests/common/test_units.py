import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.common.units import format_bytes, format_seconds, parse_bytes, parse_seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2GiB", 2 * 2**30), ("1.5 MiB", 1572864), ("100MB", 10**8), ("7B", 7), ("2gib", 2**31), ("1KB", 1000)],
)
def test_bytes_are_parsed(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("4m", 240), ("2h", 7200), ("1h30m", 5400), ("90s", 90), ("0.5m", 30)])
def test_seconds_are_parsed(text: str, expected: float) -> None:
    assert parse_seconds(text) == expected


@pytest.mark.parametrize("text", ["", "2", "GiB", "-1GiB", "2 gigs"])
def test_malformed_bytes_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="for instance 2GiB"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["", "4", "m", "-4m", "4 minutes"])
def test_malformed_seconds_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="for instance 4m"):
        parse_seconds(text)


@given(st.integers(0, 2**50))
def test_formatted_bytes_parse_to_within_a_percent(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.01, abs=1)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.4, "59s"), (60, "1m00s"), (75.3, "1m15s"), (5400, "1h30m")]
)
def test_seconds_are_formatted(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
