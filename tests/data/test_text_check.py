import csv
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from nas.cli import main
from tests.support.project import WORDS, Project, build_project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project whose tokenizer adds no special tokens."""
    project = build_project(tmp_path / "project")
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    for path in (project.root / "bert").glob("tokenizer*"):
        path.unlink()
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.save_pretrained(project.root / "bert")
    return project


def empty_texts(project: Project, *, of: list[int]) -> None:
    with project.manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for index in of:
        rows[index]["text"] = ""
    with project.manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize("command", [["space"], ["search", "--workers", "0"]])
@pytest.mark.parametrize("texts", [[2], list(range(60))], ids=["one", "all"])
def test_text_without_tokens_is_named_before_anything_is_trained(
    project: Project, capsys: pytest.CaptureFixture[str], command: list[str], texts: list[int]
) -> None:
    empty_texts(project, of=texts)
    run = ["--run-dir", str(project.root / "run"), "--cache-dir", str(project.root / "cache")] if command[1:] else []
    assert main([command[0], str(project.root / "search.yaml"), *command[1:], *run]) == 2
    output, error = capsys.readouterr()
    assert f"train split, sample {texts[0] + 1} (image '{texts[0]:03}.png')" in error
    assert str(project.root / "bert") in error and "special tokens" in error and error.count("\n") == 1
    assert "supernet" not in output and not (project.root / "run").exists()
