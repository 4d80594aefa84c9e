"""easy-VQA (Zhou, 2019; PyPI easy-vqa 1.0, MIT): questions about a coloured shape in a picture of 64x64 pixels.

13 answers; 4,000 pictures with 38,575 questions for training, 1,000 with 9,673 for testing. Every fifth of the
training pictures, in random order, goes to validation with all of its questions. The bar form has 4,000 / 1,000 /
2,000 questions: two of each of 2,000 / 500 / 1,000 pictures, so that a question more is hardly ever about a picture
seen before.
"""

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.suite.data_set import SPLITS, DataSet, Sample, write_data_set
from benchmarks.suite.packages import EASY_VQA, read_members, wheel
from nas.common.errors import DataError

VALIDATION_FRACTION = 0.2
BAR_PICTURES = {"train": 2000, "validation": 500, "test": 1000}
BAR_QUESTIONS = 2
"""The number of questions about a picture in the bar form."""
_SEED = 0
_DATA = "easy_vqa/data"


class Question(NamedTuple):
    """A question about a picture, which its part of the package and its number identify."""

    part: str
    picture: int
    text: str
    answer: str


def build(directory: Path, source: Path | None, form: str) -> DataSet:
    """Build the task.

    Args:
        directory: The folder of the data set.
        source: The folder with the wheel; None: the folder `packages` next to the data set's.
        form: whole or bar.
    """
    archive = wheel(EASY_VQA, source or directory.parent / "packages")
    samples = list(split_by_picture(read_questions(archive)))
    if form == "bar":
        samples = bar_form(samples)
    names = list(dict.fromkeys(sample.image for sample in samples))
    pictures = read_members(archive, [f"{_DATA}/{name}" for name in names])
    return write_data_set(directory, samples, dict(zip(names, pictures, strict=True)))


def read_questions(archive: Path) -> list[Question]:
    """Return all questions of the package.

    Raises:
        DataError: If the archive has another form.
    """
    found = []
    parts = ("train", "test")
    members = [f"{_DATA}/{part}/questions.json" for part in parts]
    for part, member, content in zip(parts, members, read_members(archive, members), strict=True):
        try:
            entries = json.loads(content)
            found += [Question(part, int(picture), str(text), str(answer)) for text, answer, picture in entries]
        except (ValueError, TypeError) as error:
            raise DataError(f"{archive}: {member}: expected a list of [question, answer, picture]: {error}") from error
    return found


def split_by_picture(questions: Iterable[Question]) -> Iterator[Sample]:
    """Yield the questions as samples, in their order, with all questions about a picture in one split."""
    questions = list(questions)
    pictures = sorted({question.picture for question in questions if question.part == "train"})
    random.Random(_SEED).shuffle(pictures)
    validation = set(pictures[: round(VALIDATION_FRACTION * len(pictures))])
    for part, picture, text, answer in questions:
        split = "validation" if part == "train" and picture in validation else part
        yield Sample(f"{part}/images/{picture}.png", text, (answer,), split)


def bar_form(samples: Iterable[Sample]) -> list[Sample]:
    """Return a random selection of pictures, each with the same number of random questions.

    Raises:
        DataError: If there are too few pictures with as many questions.
    """
    rng = random.Random(_SEED)
    of_picture: dict[str, dict[str, list[Sample]]] = {split: defaultdict(list) for split in SPLITS}
    for sample in samples:
        of_picture[sample.split][sample.image].append(sample)
    chosen: list[Sample] = []
    for split, count in BAR_PICTURES.items():
        enough = [image for image, asked in of_picture[split].items() if len(asked) >= BAR_QUESTIONS]
        if len(enough) < count:
            raise DataError(
                f"easy-VQA: {split}: expected {count} pictures with {BAR_QUESTIONS} questions, got {len(enough)}"
            )
        for image in rng.sample(enough, count):
            chosen += rng.sample(of_picture[split][image], BAR_QUESTIONS)
    return chosen
