"""Folders that somebody else made: nothing in them is run, and damage is named before transformers sees it."""

import ast
import errno
import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertTokenizer
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from nas.common.errors import EncoderError
from nas.models.encoders.checkpoints import load_encoder
from nas.models.encoders.pretrained import load_image_processor, load_tokenizer
from tests.support.tiny import bert_model, vit_model

SOURCE = Path(__file__).parents[3]
LOADERS: dict[str, Callable[[str], Any]] = {
    "image": lambda folder: load_encoder(folder, "image"),
    "text": lambda folder: load_encoder(folder, "text"),
    "processor": load_image_processor,
    "tokenizer": load_tokenizer,
}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A folder of an image encoder with its image processor."""
    folder = tmp_path / "vit"
    vit_model(num_layers=1).float().save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A folder of a text encoder with its tokenizer."""
    folder = tmp_path / "bert"
    bert_model(num_layers=1).float().save_pretrained(folder)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat"]))
    BertTokenizer(vocab=str(tmp_path / "vocab.txt")).save_pretrained(folder)
    return folder


def change(path: Path, **values: Any) -> None:
    """Change keys of a JSON file, which need not exist."""
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | values))


class Planted:
    """An object whose unpickling writes a file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.witness,)


@pytest.fixture
def witness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that planted code writes; a question on standard input is an error."""

    class Refusing:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError("standard input was read")

    monkeypatch.setattr(sys, "stdin", Refusing())
    return tmp_path / "witness"


def plant(folder: Path, witness: Path) -> None:
    code = f"from pathlib import Path\nPath({str(witness)!r}).touch()\n"
    (folder / "planted.py").write_text(code + "class Planted: ...\n")


CODE = {
    "AutoConfig": "planted.Planted",
    "AutoModel": "planted.Planted",
    "AutoTokenizer": ["planted.Planted", None],
    "AutoImageProcessor": "planted.Planted",
    "AutoProcessor": "planted.Planted",
}


@pytest.mark.parametrize(
    "file",
    [
        "config.json",
        "tokenizer_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        "config.9.json",
    ],
)
@pytest.mark.parametrize("model_type", ["bert", "unheard_of"])
def test_folder_with_custom_code_is_refused_without_running_it(
    file: str, model_type: str, text: Path, witness: Path
) -> None:
    plant(text, witness)
    change(text / file, auto_map=CODE)
    if model_type != "bert":
        change(text / "config.json", model_type=model_type)
    for load in (LOADERS["text"], LOADERS["tokenizer"], LOADERS["processor"]):
        with pytest.raises(EncoderError, match=rf"/{file}: auto_map: custom code is never run; expected .*, got "):
            load(str(text))
    assert not witness.exists()


def test_custom_code_is_found_at_any_depth_and_in_any_spelling(text: Path, witness: Path) -> None:
    plant(text, witness)
    (text / "processor_config.json").write_text(
        '{"image_processor": {"auto\\u005fmap": {"AutoImageProcessor": "planted.Planted"}}}'
    )
    with pytest.raises(EncoderError, match=r"processor_config\.json: auto_map: custom code is never run"):
        load_image_processor(str(text))
    assert not witness.exists()


def test_word_of_a_vocabulary_may_be_auto_map(text: Path) -> None:
    change(text / "added_tokens.json", auto_map=6)
    assert load_tokenizer(str(text)) is not None


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_pickled_objects_are_not_run(name: str, text: Path, witness: Path) -> None:
    (text / "model.safetensors").unlink()
    with (text / name).open("wb") as file:
        pickle.dump({"weight": Planted(witness)}, file, protocol=2)
    with pytest.raises(EncoderError, match=rf"/{name}: "):
        load_encoder(str(text), "text")
    torch.save({"weight": Planted(witness)}, text / name, pickle_protocol=2)
    with pytest.raises(EncoderError, match=rf"/{name}: "):
        load_encoder(str(text), "text")
    assert not witness.exists()


def test_pickled_weights_are_loaded_as_data(text: Path) -> None:
    expected = load_encoder(str(text), "text").state_dict()
    torch.save(load_file(text / "model.safetensors"), text / "pytorch_model.bin")
    (text / "model.safetensors").unlink()
    loaded = load_encoder(str(text), "text").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def test_template_of_a_tokenizer_is_not_rendered(text: Path, witness: Path) -> None:
    call = f"{{{{ cycler.__init__.__globals__.os.system('touch {witness}') }}}}"
    (text / "chat_template.jinja").write_text(call)
    change(text / "tokenizer_config.json", chat_template=call)
    load_tokenizer(str(text))(["cat"])
    assert not witness.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("quantization_config", {"quant_method": "bitsandbytes"}), ("transformers_weights", "other.safetensors")],
)
def test_weights_in_another_form_are_refused(key: str, value: Any, text: Path) -> None:
    change(text / "config.json", **{key: value})
    with pytest.raises(EncoderError, match=rf"/config\.json: {key}: is not supported; expected .*, got "):
        load_encoder(str(text), "text")


def test_adapter_is_refused(text: Path) -> None:
    change(text / "adapter_config.json", base_model_name_or_path="elsewhere/model", peft_type="LORA")
    with pytest.raises(EncoderError, match=r"adapter_config\.json: adapters are not loaded; expected a complete"):
        load_encoder(str(text), "text")


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_attention_of_another_repository_is_refused(key: str, text: Path) -> None:
    change(text / "config.json", **{key: "someone/kernel"})
    with pytest.raises(EncoderError, match=rf"config\.json: {key}: custom code is never run; .* got 'someone/kernel'"):
        load_encoder(str(text), "text")
    change(text / "config.json", **{key: "eager"})
    assert load_encoder(str(text), "text").config._attn_implementation in {None, "sdpa", "eager"}


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("model.safetensors", "text"),
        ("config.json", "text"),
        ("tokenizer.json", "tokenizer"),
        ("vocab.txt", "tokenizer"),
    ],
)
def test_pointer_of_git_lfs_is_named(file: str, kind: str, text: Path) -> None:
    (text / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(EncoderError, match=rf"/{file}: is a Git LFS pointer; expected .*; run `git lfs pull`"):
        LOADERS[kind](str(text))


@pytest.mark.parametrize("kept", [0, 4, 100, -4])
def test_truncated_weights_are_named(kept: int, text: Path) -> None:
    weights = text / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(EncoderError, match=r"model\.safetensors: cannot be read: .*; expected complete weights"):
        load_encoder(str(text), "text")


def test_missing_shard_and_missing_weights_are_named(text: Path) -> None:
    weights = text / "model.safetensors"
    weights.rename(text / "shard-1.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "shard-1.safetensors", "b": "shard-2.safetensors"}}
    (text / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(EncoderError, match=r"shard-2\.safetensors: cannot be read: no such file"):
        load_encoder(str(text), "text")
    (text / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../elsewhere.safetensors"}}')
    with pytest.raises(EncoderError, match=r"index\.json: is damaged: weight_map names .*elsewhere"):
        load_encoder(str(text), "text")
    (text / "model.safetensors.index.json").unlink()
    with pytest.raises(EncoderError, match=r"bert: holds no weights; expected a file model\.safetensors"):
        load_encoder(str(text), "text")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "is not finite; .* got nan"),
        (float("inf"), "is not finite; .* got inf"),
        (1, "has the dtype I64"),
    ],
)
def test_weights_that_are_no_finite_numbers_are_named(value: float, message: str, text: Path) -> None:
    file, name = text / "model.safetensors", "encoder.layer.0.output.dense.bias"
    weights = load_file(file)
    weights[name] = torch.full_like(weights[name], 1).fill_(value) if value != 1 else weights[name].long()
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(EncoderError, match=rf"model\.safetensors: .*{name}.*{message}"):
        load_encoder(str(text), "text")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 0),
        ("num_hidden_layers", -1),
        ("num_hidden_layers", 10**9),
        ("num_attention_heads", 0),
        ("hidden_size", -16),
        ("intermediate_size", 10**12),
        ("vocab_size", 10**9),
        ("max_position_embeddings", 0),
        ("hidden_act", "swishy"),
        ("initializer_range", -math.inf),
        ("initializer_range", -1.0),
        ("layer_norm_eps", math.nan),
        ("layer_norm_eps", -1e-12),
        ("hidden_dropout_prob", math.inf),
    ],
)
def test_configuration_that_no_encoder_has_is_named(key: str, value: Any, text: Path) -> None:
    change(text / "config.json", **{key: value})
    with pytest.raises(EncoderError, match=rf"/config\.json: {key}: .*; expected .*, got "):
        load_encoder(str(text), "text")


def test_value_of_another_type_is_named(text: Path) -> None:
    change(text / "config.json", hidden_act=["gelu"])
    with pytest.raises(EncoderError, match=r"config\.json: .* field 'hidden_act': .* expected str, got list"):
        load_encoder(str(text), "text")


def test_configuration_of_a_much_larger_model_takes_no_memory(text: Path) -> None:
    change(text / "config.json", intermediate_size=1_000_000, num_hidden_layers=50)
    with pytest.raises(
        EncoderError, match=r"config\.json: describes a model of .* weights; expected the config.* of mod"
    ):
        load_encoder(str(text), "text")


def test_heads_that_do_not_divide_the_width_are_named(text: Path) -> None:
    change(text / "config.json", num_attention_heads=3)
    with pytest.raises(EncoderError, match=r"config\.json: no model can be built of it: .*attention heads"):
        load_encoder(str(text), "text")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", {"height": -1, "width": 16}),
        ("size", {"height": 10**9, "width": 16}),
        ("size", {"height": 16.5, "width": 16}),
        ("image_mean", [0.5]),
        ("image_mean", [0.5, 0.5, float("nan")]),
        ("image_std", [0.5, 0.0, 0.5]),
        ("rescale_factor", 0),
        ("do_resize", "no"),
        ("resample", "cubic"),
        ("resample", 99),
    ],
)
def test_values_of_the_image_processor_are_checked(key: str, value: Any, image: Path) -> None:
    change(image / "preprocessor_config.json", **{key: value})
    with pytest.raises(EncoderError, match=rf"preprocessor_config\.json: {key}.*: not allowed; expected .*, got "):
        load_image_processor(str(image))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (
            {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 16}, "do_center_crop": False},
            "do_ce",
        ),
        ({"do_resize": False}, "do_resize"),
    ],
)
def test_processor_that_keeps_the_shape_of_pictures_is_named(changes: dict[str, Any], key: str, image: Path) -> None:
    change(image / "preprocessor_config.json", **changes)
    with pytest.raises(
        EncoderError,
        match=rf"preprocessor_config\.json: {key}.*: pictures of 96 x 64 and 64 x 96 pixels become .* got Fa",
    ):
        load_image_processor(str(image))


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json", "chat_template.jinja", "config.json"])
def test_named_pipe_is_named(name: str, text: Path) -> None:
    (text / name).unlink(missing_ok=True)
    os.mkfifo(text / name)
    with pytest.raises(EncoderError, match=rf"{name}: cannot be read; expected .*, got a named pipe"):
        load_tokenizer(str(text))


def test_unreadable_file_is_not_called_missing(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is refused by a patch, because root may read a file of any mode."""
    open_file = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "tokenizer.json":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(EncoderError, match=r"tokenizer\.json: cannot be read: permission denied"):
        load_tokenizer(str(text))


def _calls(tree: ast.AST) -> list[str]:
    """Return what is called by attribute: `AutoConfig.from_pretrained`."""
    functions = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [ast.unparse(function) for function in functions if isinstance(function, ast.Attribute)]


def test_only_one_module_loads_through_the_auto_classes() -> None:
    """A class of transformers that is chosen by a file of a folder is loaded in `pretrained` only."""
    listed = subprocess.run(["git", "ls-files", "nas/*.py"], cwd=SOURCE, capture_output=True, text=True, check=True)
    for path in map(Path, listed.stdout.split()):
        tree = ast.parse((SOURCE / path).read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        auto = {name for name in names if name.startswith("Auto") and name[4:5].isupper()}
        if path.name != "pretrained.py":
            # `transformers_classes` registers classes with them, and calls none.
            assert auto <= {"AutoConfig"} or path.name == "transformers_classes.py", path
            assert not [c for c in _calls(tree) if c.startswith("Auto") and c.endswith("from_pretrained")], path
        assert not names & {"pickle", "joblib", "dill"} or "loads" not in str(_calls(tree)), path
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert options.get("weights_only") == "True", path
