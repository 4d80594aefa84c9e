"""The proposed encoders follow from the images, the language and the memory."""

import pytest

from nas.run.proposal import encoders
from nas.run.proposal.encoders import languages_of, propose_image_encoder, propose_text_encoder

ENGLISH = ["a red apple on the table", "two dogs are running in the park", "the sea at night", "people in the street"]
GERMAN = ["ein roter Apfel auf dem Tisch", "zwei Hunde laufen im Park", "das Meer in der Nacht", "Leute auf der Straße"]


@pytest.fixture(autouse=True)
def nothing_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "is_local", lambda name: False)


def test_languages_are_those_of_many_texts() -> None:
    assert languages_of(ENGLISH * 20) == ["en"]
    assert languages_of(GERMAN * 20) == ["de"]
    assert sorted(languages_of(ENGLISH * 20 + GERMAN * 20)) == ["de", "en"]
    assert languages_of(ENGLISH * 95 + GERMAN * 5) == ["en"], "a few others do not count"
    assert languages_of(["", "12", "?"]) == []


@pytest.mark.parametrize("memory_bytes", [2**30, 2**35])
def test_text_encoder_of_other_languages_is_multilingual(memory_bytes: int) -> None:
    assert "multilingual" in propose_text_encoder(["de"], memory_bytes=memory_bytes).name
    assert "multilingual" in propose_text_encoder(["en", "de"], memory_bytes=memory_bytes).name
    assert "multilingual" not in propose_text_encoder(["en"], memory_bytes=memory_bytes).name


def test_encoders_of_the_paper_are_proposed_for_photographs_english_and_enough_memory() -> None:
    image = propose_image_encoder(are_drawings=False, memory_bytes=2**35)
    text = propose_text_encoder(["en"], memory_bytes=2**35)
    assert (image.name, text.name) == ("google/vit-base-patch16-224-in21k", "bert-base-uncased")
    small = propose_image_encoder(are_drawings=False, memory_bytes=2**31)
    assert small.name == "facebook/dinov2-small"


def test_encoder_on_this_machine_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "is_local", lambda name: name.startswith("package:"))
    proposal = propose_text_encoder(["en"], memory_bytes=2**35)
    assert proposal.name.startswith("package:") and proposal.is_local
