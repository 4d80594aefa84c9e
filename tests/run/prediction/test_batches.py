"""Computing a stream of inputs in batches: in order, without reading far ahead, with the errors of single inputs."""

from collections.abc import Iterator

import pytest
import torch
from PIL import Image

from nas.common.errors import DataError
from nas.data.inputs import Input
from nas.run.exported_model import ExportedModel
from nas.run.prediction.batches import checked_outcomes, predict_inputs

WORDS = ("apple", "boat", "cat", "dog", "egg", "fox")


def open_image(name: str) -> Image.Image:
    if name == "missing":
        raise DataError("image 'missing': is missing")
    return Image.new("RGB", (20, 20), (int(name) % 256, 0, 0))


def describe(pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return values that identify an input: its colour and its number of tokens."""
    assert len(pixels) == len(ids) == len(mask) and mask.any(dim=0).all()  # no column of padding alone
    return torch.stack([pixels[:, 0, 0, 0], mask.sum(dim=1).float()], dim=1)


def inputs(count: int) -> Iterator[Input]:
    for index in range(count):
        yield Input(index, str(index), " ".join(WORDS[: index * 5 % 7]))


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_outcomes_are_in_the_order_of_the_inputs_whatever_the_batches(batch_size: int, exported: ExportedModel) -> None:
    outcomes = list(
        predict_inputs(
            inputs(50),
            preprocessor=exported.preprocessor,
            open_image=open_image,
            compute=describe,
            batch_size=batch_size,
        )
    )
    assert [outcome.input for outcome in outcomes] == list(inputs(50))
    for index, outcome in enumerate(outcomes):
        assert outcome.values is not None and outcome.error is None
        colour, length = outcome.values.tolist()
        assert round((colour + 1) / 2 * 255) == index and length == index * 5 % 7 + 2


def test_errors_stay_with_their_inputs_and_whole_windows_of_them_keep_their_place(exported: ExportedModel) -> None:
    given = [
        entry._replace(image="missing") if 8 <= index < 24 else entry._replace(error="bad") if index < 8 else entry
        for index, entry in enumerate(inputs(30))
    ]
    outcomes = list(
        predict_inputs(given, preprocessor=exported.preprocessor, open_image=open_image, compute=describe, batch_size=2)
    )
    assert [outcome.input.number for outcome in outcomes] == list(range(30))
    errors = [str(outcome.error) for outcome in outcomes]
    assert errors == ["bad"] * 8 + ["image 'missing': is missing"] * 16 + ["None"] * 6
    with pytest.raises(DataError, match=r"^bad$"):
        list(checked_outcomes(outcomes, "new.csv"))
    with pytest.raises(DataError, match=r"^new\.csv, row 8: image 'missing': is missing$"):
        list(checked_outcomes(outcomes[8:], "new.csv"))


def test_output_that_is_not_finite_is_an_error(exported: ExportedModel) -> None:
    def divide(pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return describe(pixels, ids, mask) / (pixels[:, 0, 0, :1] + 1)

    outcomes = predict_inputs(
        inputs(3), preprocessor=exported.preprocessor, open_image=open_image, compute=divide, batch_size=4
    )
    assert [outcome.values is None for outcome in outcomes] == [True, False, False]


def test_inputs_are_read_as_they_are_needed(exported: ExportedModel) -> None:
    read = 0

    def counted() -> Iterator[Input]:
        nonlocal read
        for entry in inputs(256):
            read += 1
            yield entry

    outcomes = predict_inputs(
        counted(), preprocessor=exported.preprocessor, open_image=open_image, compute=describe, batch_size=4
    )
    assert read == 0
    next(outcomes)
    assert read <= 48
    outcomes.close()  # type: ignore[attr-defined]
    assert read <= 48
