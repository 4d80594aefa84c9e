"""The last layers of an encoder, saved to a file and mapped from it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTModel

from nas.common.errors import EncoderError
from nas.models.encoders.partial_checkpoint import load_tail, save_tail
from nas.models.encoders.vit import ViTEncoder
from tests.support.tiny import vit_model
from tests.support.tiny_families import ALL_FAMILIES, TinyFamily

MAPPED = """
import sys
from pathlib import Path
from transformers import ViTConfig
from nas.models.encoders.partial_checkpoint import load_tail
from nas.memory.measurement import private_bytes
config = ViTConfig(hidden_size=512, num_hidden_layers=3, num_attention_heads=8, intermediate_size=2048)
load_tail(config, 1, Path(sys.argv[1]))
before = private_bytes()
encoder = load_tail(config, 1, Path(sys.argv[1]))
total = sum(float(parameter.sum()) for layer in encoder.layers[1:] for parameter in layer.module.parameters())
print(private_bytes() - before)
"""


@pytest.mark.parametrize("family", ALL_FAMILIES, ids=str)
def test_layers_mapped_from_a_file_equal_the_encoders(family: TinyFamily, tmp_path: Path) -> None:
    encoder = family.encoder(family.model(num_layers=3))
    inputs, everything = family.batch()
    mask = everything if family.modality == "text" else None
    rows = encoder.embed(inputs)
    save_tail(encoder, 1, tmp_path / "tail.pt")
    tail = load_tail(encoder.config, 1, tmp_path / "tail.pt")
    bias = encoder.data_bias(mask, rows.shape[1], rows.dtype)
    expected = encoder.finish(encoder.run(rows, bias, start=1, stop=3))
    got = tail.finish(tail.run(rows, tail.data_bias(mask, rows.shape[1], rows.dtype), start=1, stop=3))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(tail.pool(got), encoder.pool(expected), rtol=0, atol=1e-12)
    assert all(parameter.data_ptr() % 64 == 0 for layer in tail.layers[1:] for parameter in layer.module.parameters())
    assert all(parameter.is_meta for parameter in tail.layers[0].module.parameters())
    assert not any(parameter.requires_grad for parameter in tail.parameters())


def test_wrong_start_or_damaged_file_is_rejected(tmp_path: Path) -> None:
    path, encoder = tmp_path / "tail.pt", ViTEncoder(vit_model())
    save_tail(encoder, 2, path)
    with pytest.raises(EncoderError, match="wrong frozen weights; expected those of layers 1 and up of a vit encoder"):
        load_tail(encoder.config, 1, path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(EncoderError, match="cannot read the frozen weights"):
        load_tail(encoder.config, 2, path)
    with pytest.raises(EncoderError, match="cannot read the frozen weights"):
        load_tail(encoder.config, 2, tmp_path / "missing")


@pytest.mark.long
def test_mapped_weights_are_not_private_memory(tmp_path: Path) -> None:
    config = ViTConfig(hidden_size=512, num_hidden_layers=3, num_attention_heads=8, intermediate_size=2048)
    encoder = ViTEncoder(ViTModel(config, add_pooling_layer=False))
    save_tail(encoder, 1, tmp_path / "tail.pt")
    size = (tmp_path / "tail.pt").stat().st_size
    done = subprocess.run(
        [sys.executable, "-c", MAPPED, str(tmp_path / "tail.pt")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 0.1 * size
