"""The lines that a search prints about its phases."""

import pytest

from nas.run.progress_lines import result_line, supernet_line
from tests.support.factories import make_result


@pytest.mark.parametrize(
    ("done", "is_interrupted", "line"),
    [
        (5, False, "Supernet: time was up after 5 of 12 steps, 3s used; rankings will be rough"),
        (5, True, "Supernet: interrupted after 5 of 12 steps, 3s used"),
        (12, True, "Supernet: trained for 12 steps, 3s used"),
    ],
)
def test_line_of_a_supernet_says_what_ended_its_training(done: int, is_interrupted: bool, line: str) -> None:
    assert supernet_line(done, 12, 1, 3.0, is_interrupted=is_interrupted) == line


def test_line_of_a_training_says_how_many_devices_shared_it() -> None:
    shared = make_result(stage="full", device_count=2)
    assert result_line("#9", shared, "accuracy").endswith("; shared by 2 devices)")
    assert "shared" not in result_line("#9", make_result(stage="full"), "accuracy")
