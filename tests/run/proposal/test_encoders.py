"""The proposed encoders follow from the images, the language and the memory."""

import json
from pathlib import Path

import pytest

from nas.models.encoders.availability import CachedEncoder, cached_encoders
from nas.run.proposal import encoders
from nas.run.proposal.encoders import languages_of, propose_image_encoder, propose_text_encoder

ENGLISH = ["a red apple on the table", "two dogs are running in the park", "the sea at night", "people in the street"]
GERMAN = ["ein roter Apfel auf dem Tisch", "zwei Hunde laufen im Park", "das Meer in der Nacht", "Leute auf der Straße"]


@pytest.fixture(autouse=True)
def nothing_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "is_local", lambda name: False)
    monkeypatch.setattr(encoders, "cached_encoders", lambda modality: [])


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
    assert proposal.comment == "for English; on this machine"


def test_encoder_that_is_downloaded_is_stated_with_its_size() -> None:
    proposal = propose_image_encoder(are_drawings=True, memory_bytes=2**35)
    assert proposal.name == "openai/clip-vit-base-patch32" and not proposal.is_local
    assert proposal.comment == "for drawings; not on this machine: the first use downloads 605 MB"
    for memory_bytes in (2**30, 2**35):
        for are_drawings in (True, False):
            assert " MB" in propose_image_encoder(are_drawings=are_drawings, memory_bytes=memory_bytes).comment
        for languages in ([], ["de"]):
            assert " MB" in propose_text_encoder(languages, memory_bytes=memory_bytes).comment


def test_usable_encoder_on_this_machine_comes_before_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"facebook/dinov2-small", "sentence-transformers/all-MiniLM-L6-v2"}
    monkeypatch.setattr(encoders, "is_local", here.__contains__)
    drawings = propose_image_encoder(are_drawings=True, memory_bytes=2**35)
    assert drawings.name == "facebook/dinov2-small" and drawings.is_local
    assert drawings.comment == (
        "on this machine; openai/clip-vit-base-patch32 (605 MB to download) is better for drawings"
    )
    text = propose_text_encoder(["en"], memory_bytes=2**35)
    assert (text.name, text.better) == ("sentence-transformers/all-MiniLM-L6-v2", "bert-base-uncased")
    assert not propose_text_encoder(["de"], memory_bytes=2**35).is_local, "it knows English only"


def test_unknown_encoders_of_the_cache_are_used_if_the_memory_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    cached = [CachedEncoder("a/base", 768), CachedEncoder("b/large", 1024), CachedEncoder("c/small", 384)]
    monkeypatch.setattr(encoders, "cached_encoders", lambda modality: cached)
    assert propose_image_encoder(are_drawings=True, memory_bytes=2**35).name == "b/large"
    assert propose_image_encoder(are_drawings=True, memory_bytes=2**30).name == "c/small"
    assert propose_text_encoder(["en"], memory_bytes=2**30).name == "c/small"
    assert propose_text_encoder(["fr"], memory_bytes=2**35).name == "bert-base-multilingual-cased"


def cache(root: Path, name: str, model_type: str, *, weights: str | None = "model.safetensors") -> None:
    """Write a model as the hub's client caches it."""
    folder = root / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text(json.dumps({"model_type": model_type, "hidden_size": 32}))
    if weights is not None:
        (snapshot / weights).write_bytes(b"0")


def test_cache_is_searched_for_complete_encoders_of_the_modality(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert cached_encoders("image") == []
    cache(tmp_path / "hub", "one/vit", "vit")
    cache(tmp_path / "hub", "two/bert", "bert", weights="pytorch_model.bin")
    cache(tmp_path / "hub", "three/clip", "clip")
    cache(tmp_path / "hub", "four/gpt", "gpt2")
    cache(tmp_path / "hub", "five/unfinished", "vit", weights=None)
    cache(tmp_path / "hub", "six/damaged", "vit")
    (tmp_path / "hub" / "models--six--damaged" / "snapshots" / ("0" * 40) / "config.json").write_text("{")
    assert cached_encoders("image") == [CachedEncoder("one/vit", 32), CachedEncoder("three/clip", 32)]
    assert [entry.name for entry in cached_encoders("text")] == ["three/clip", "two/bert"]
