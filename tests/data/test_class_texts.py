"""The texts of the classes as tokens."""

import pytest

from nas.data.class_texts import LongClassText, tokenize_classes
from nas.data.preprocessing import Preprocessor
from nas.models.encoders.pretrained import load_tokenizer
from tests.support.project import WORDS, Project

START, END = 2, 3
CAT, DOG, EGG = (5 + WORDS.index(word) for word in ("cat", "dog", "egg"))


@pytest.fixture
def preprocessor(project: Project) -> Preprocessor:
    tokenizer = load_tokenizer(str(project.root / "clip"))
    return Preprocessor(image_processor=None, tokenizer=tokenizer, max_text_tokens=3)


def test_each_class_has_a_text_under_each_template(preprocessor: Preprocessor) -> None:
    prompts = ("egg {}", "{} egg egg", "dog dog egg {}")
    texts = tokenize_classes(prompts, ["cat", "dog_cat"], preprocessor, max_tokens=20)
    assert texts.as_dict() == {
        "ids": [
            [[START, EGG, CAT, END], [START, EGG, DOG, CAT, END]],
            [[START, CAT, EGG, EGG, END], [START, DOG, CAT, EGG, EGG, END]],
            [[START, DOG, DOG, EGG, CAT, END], [START, DOG, DOG, EGG, DOG, CAT, END]],
        ],
        "prefixes": [1, 0, 3],
    }, "underscores are spaces, and texts are longer than the 3 tokens that those of samples are cut to"


def test_text_that_is_too_long_is_named(preprocessor: Preprocessor) -> None:
    with pytest.raises(LongClassText, match="6 tokens in 'egg egg dog cat'"):
        tokenize_classes(["egg egg {}"], ["cat", "dog_cat"], preprocessor, max_tokens=5)
