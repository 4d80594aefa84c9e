"""Rankings of a table against an independent slow computation."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from nas.common.errors import DataError
from nas.data.inputs import Input
from nas.run.prediction.batches import Outcome
from nas.run.prediction.ranking import RankingForm, Row, ranked_rows

IMAGES = ["a", "b", "a", "c", "lost", "d", "b"]
TEXTS = ["red", "a bus", " RED ", "sea", "any", "A  bus", "fox"]


def outcomes() -> list[Outcome]:
    """Rows with repeated pictures and texts, of which one cannot be read; equal items have equal embeddings."""
    generator = torch.Generator().manual_seed(0)
    pictures = {name: normalize(torch.randn(3, generator=generator), dim=0) for name in sorted(set(IMAGES))}
    texts = {name: normalize(torch.randn(3, generator=generator), dim=0) for name in ("red", "a bus", "sea", "fox")}
    found = []
    for number, (image, text) in enumerate(zip(IMAGES, TEXTS, strict=True), start=2):
        entry = Input(number, image, text)
        if image == "lost":
            found.append(Outcome(entry, None, DataError("no such file")))
        else:
            found.append(Outcome(entry, torch.cat([pictures[image], texts[" ".join(text.lower().split())]])))
    return found


@pytest.mark.parametrize("block_scores", [1, 9, 1_000])
def test_best_texts_and_pictures_of_each_row(tmp_path: Path, block_scores: int) -> None:
    form, seen = RankingForm(top=3, has_errors=True), list[int]()

    def ranked(first: int) -> list[Row]:
        options = {"first": first, "block_scores": block_scores}
        return list(ranked_rows(outcomes(), form, folder=tmp_path, on_embedded=seen.append, **options))

    rows = ranked(0)
    assert seen == [1, 2, 3, 4, 5, 6, 7] and not list(tmp_path.iterdir())
    assert [column.name for column in form.columns][:4] == ["row", "text_1", "text_1_similarity", "text_2"]
    read = [(outcome.input, outcome.values) for outcome in outcomes() if outcome.values is not None]
    texts = {entry.text: values[3:] for entry, values in read if entry.text not in (" RED ", "A  bus")}
    images = {entry.image: values[:3] for entry, values in read}
    for outcome, row in zip(outcomes(), rows, strict=True):
        cells = dict(zip((column.name for column in form.columns), row.cells, strict=True))
        assert cells["row"] == outcome.input.number and row.has_error == (outcome.values is None)
        if outcome.values is None:
            assert cells["error"] == "no such file" and set(row.cells[1:-1]) == {None}
            continue
        for side, query, gallery in (("text", outcome.values[:3], texts), ("image", outcome.values[3:], images)):
            best = sorted(gallery, key=lambda name: -float(query @ gallery[name]))[:3]
            assert [cells[f"{side}_{rank}"] for rank in (1, 2, 3)] == best
            for rank, name in enumerate(best, start=1):
                assert cells[f"{side}_{rank}_similarity"] == pytest.approx(float(query @ gallery[name]), abs=1e-5)
        assert cells["error"] is None
    for first in range(8):
        assert ranked(first) == rows[first:]


def test_gallery_that_is_smaller_than_the_list_leaves_cells_empty(tmp_path: Path) -> None:
    chosen = outcomes()[:3]  # two pictures and two texts
    rows = list(ranked_rows(chosen, RankingForm(top=3), folder=tmp_path, first=0, on_embedded=lambda _: None))
    assert [[row.cells[place] for place in (5, 6, 11, 12)] for row in rows] == [[None] * 4] * 3
    assert all(row.cells[place] is not None for row in rows for place in (1, 3, 7, 9))
    lost = [outcome for outcome in outcomes() if outcome.values is None]
    assert len(list(ranked_rows(lost, RankingForm(2), folder=tmp_path, first=0, on_embedded=lambda _: None))) == 1
