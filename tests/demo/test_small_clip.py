"""The small CLIP of the demo is the one that its card describes, and both its encoders are found in it."""

import hashlib

import torch
from transformers import AutoTokenizer, CLIPModel

from demo.build_data import HERE
from nas.models.encoders.checkpoints import load_encoder

FOLDER = HERE / "small_clip"


def test_weights_are_the_stated_ones() -> None:
    digest, name = (FOLDER / "SHA256SUMS").read_text().split()
    assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest


def test_encoders_of_a_search_have_its_embeddings() -> None:
    model = CLIPModel.from_pretrained(FOLDER, dtype=torch.float32).eval()
    words = AutoTokenizer.from_pretrained(FOLDER)(["a red apple", "a house"], padding=True, return_tensors="pt")
    mask = words["attention_mask"].bool()
    encoder = load_encoder(str(FOLDER), "text", has_head=True)
    rows = encoder.embed(words["input_ids"])
    rows = encoder.run(rows, encoder.data_bias(mask, rows.shape[1], rows.dtype), start=0, stop=encoder.num_layers)
    read = encoder.pool(encoder.finish(encoder.readout_rows(rows, mask)))
    assert encoder.projection is not None and encoder.logit_scale is not None
    with torch.no_grad():
        expected = model.text_projection(model.text_model(**words).pooler_output)
    torch.testing.assert_close(encoder.projection(read), expected, rtol=1e-4, atol=1e-5)
    assert abs(encoder.logit_scale - float(model.logit_scale.detach().exp())) < 1e-3
