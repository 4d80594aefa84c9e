"""PMF on every encoder family: the fast path and the reference against whole layers of transformers itself.

The oracle of this module shares nothing with the two but the values of the trained tensors.
"""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from nas.models.classifier import FusionForClassification
from nas.models.encoders.base import Encoder
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.pmf.reference import reference_logits
from nas.run.export import assemble
from nas.search.space import Architecture
from tests.support.tiny import base_features, pmf_model
from tests.support.tiny_families import IMAGE_FAMILIES, TEXT_FAMILIES, TinyFamily

TOLERANCE = 1e-9
DEPTH, CLASSES = 3, 4
VIT, BERT = IMAGE_FAMILIES[0], TEXT_FAMILIES[0]

PAIRS = [*((image, BERT) for image in IMAGE_FAMILIES), *((VIT, text) for text in TEXT_FAMILIES[1:])]
ARCHITECTURES = [
    PMFArchitecture(2, 2, 1, 3, 5),
    PMFArchitecture(1, 6, 2, 1, 6),
    PMFArchitecture(1, 1, 0, 0, 5),
    PMFArchitecture(0, 2, 1, 2, 6),
    PMFArchitecture(2, 2, 1, 3, 5, image_readout=1, text_readout=1),
    PMFArchitecture(1, 2, 1, 2, 6, image_readout=1, text_readout=1),
]

every_pair = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0]} and {pair[1]}")
every_case = pytest.mark.parametrize(
    ("pair", "architecture"),
    [
        # Every pair meets two architectures, every architecture some pairs; all of them meet in the long tests.
        pytest.param(
            pair,
            architecture,
            marks=[] if (place + index) % 3 == 0 else [pytest.mark.long],
            id=f"{pair[0]} and {pair[1]}-{architecture}",
        )
        for place, pair in enumerate(PAIRS)
        for index, architecture in enumerate(ARCHITECTURES)
    ],
)


class Case:
    """A PMF model of a pair of encoder families, their models of transformers, and a batch."""

    def __init__(
        self, pair: tuple[TinyFamily, TinyFamily], architecture: Architecture, dtype: torch.dtype = torch.float64
    ) -> None:
        self.image, self.text = pair
        self.image_model = self.image.model(DEPTH, 24, dtype)
        self.text_model = self.text.model(DEPTH, 16, dtype)
        encoders = self.image.encoder(self.image_model), self.text.encoder(self.text_model)
        self.pmf = pmf_model(architecture, encoders, num_classes=CLASSES)
        (self.pixels, _), (self.ids, self.mask) = self.image.batch(dtype), self.text.batch()
        self.labels = torch.arange(len(self.ids)) % CLASSES

    def logits(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return the logits of the fast path."""
        features = base_features(*self.pmf.encoders, self.pmf.architecture.fusion_layer, self.pixels, ids, mask)
        logits: Tensor = self.pmf(features)
        return logits


def whole_layer(layer: Any, data: Tensor, data_mask: Tensor, seen: Tensor, prompts: Tensor) -> Tensor:
    """Return layer([data ; prompts]) with the complete mask.

    Args:
        layer: A layer of transformers.
        data: The data tokens, (B, R, D).
        data_mask: The additive mask between data tokens, broadcasting to (B, H, R, R).
        seen: (B, R), true where a token is not padding.
        prompts: The prompts, (B, M, D).
    """
    (size, rows, _), more = data.shape, prompts.shape[1]
    padding = torch.zeros(size, 1, 1, rows, dtype=data.dtype).masked_fill(~seen[:, None, None, :], float("-inf"))
    upper = data_mask.expand(size, -1, rows, -1)  # data tokens attend to data tokens
    lower = padding.expand(-1, upper.shape[1], more, -1)  # prompts attend to data tokens
    whole = pad(torch.cat([upper, lower], dim=2), (0, more))  # all attend to prompts
    output: Any = layer(torch.cat([data, prompts], dim=1), whole)
    result: Tensor = output[0] if isinstance(output, tuple) else output
    return result


def oracle(case: Case, mask: Tensor | None) -> Tensor:
    """Return the logits by the definition of the paper, from the values of the trained tensors."""
    n = DEPTH - case.pmf.architecture.fusion_layer
    text_seen = torch.ones_like(case.ids, dtype=torch.bool) if mask is None else mask
    z = case.image.layer_calls(case.image_model, case.pixels, text_seen)[-n][0].detach()
    t = case.text.layer_calls(case.text_model, case.ids, text_seen)[-n][0].detach()
    image_seen = torch.ones(z.shape[:2], dtype=torch.bool)
    image_mask = case.image.data_mask(case.image_model, z, image_seen)
    text_mask = case.text.data_mask(case.text_model, t, text_seen)

    def repeated(*prompts: Tensor) -> Tensor:
        return torch.cat(prompts)[None].repeat(len(z), 1, 1)

    for image_layer, text_layer, weights in zip(
        case.image.layers_of(case.image_model)[-n:],
        case.text.layers_of(case.text_model)[-n:],
        cast(Any, case.pmf.fusion_layers),
        strict=True,
    ):
        to_text, to_image = weights.image_to_text, weights.text_to_image

        def image(prompts: Tensor, layer: Any = image_layer, rows: Tensor = z) -> Tensor:
            return whole_layer(layer, rows, image_mask, image_seen, prompts)

        def text(prompts: Tensor, layer: Any = text_layer, rows: Tensor = t) -> Tensor:
            return whole_layer(layer, rows, text_mask, text_seen, prompts)

        def mapped(direction: Any, rows: Tensor) -> Tensor:
            queried = rows[:, -len(direction.query_prompts) :]
            message: Tensor = direction.outer(torch.relu(direction.inner(queried)))
            return message

        from_image = mapped(to_text, image(repeated(to_text.query_context_prompts, to_text.query_prompts)))
        from_text = mapped(to_image, text(repeated(to_image.query_context_prompts, to_image.query_prompts)))
        next_z = image(torch.cat([repeated(to_image.fusion_context_prompts), from_text], dim=1))
        next_t = text(torch.cat([repeated(to_text.fusion_context_prompts), from_image], dim=1))
        z, t = next_z[:, : z.shape[1]], next_t[:, : t.shape[1]]

    image_read, text_read = (
        means(encoder, rows, seen) if readout else family.readout(model, rows, seen)
        for family, model, encoder, rows, seen, readout in (
            (case.image, case.image_model, case.pmf.encoders[0], z, image_seen, case.pmf.architecture.image_readout),
            (case.text, case.text_model, case.pmf.encoders[1], t, text_seen, case.pmf.architecture.text_readout),
        )
    )
    logits: Tensor = (case.pmf.image_classifier(image_read) + case.pmf.text_classifier(text_read)) / 2
    return logits


def means(encoder: Encoder, rows: Tensor, seen: Tensor) -> Tensor:
    """Return the mean of the tokens of every sample, after the final norm."""
    return torch.stack([encoder.finish(row[is_token]).mean(dim=0) for row, is_token in zip(rows, seen, strict=True)])


@every_case
def test_fast_path_and_reference_equal_layers_of_transformers(
    pair: tuple[TinyFamily, TinyFamily], architecture: Architecture
) -> None:
    case = Case(pair, architecture)
    trained = {name: tensor for name, tensor in case.pmf.named_parameters() if tensor.numel()}
    fast, expected = case.logits(case.ids, case.mask), oracle(case, case.mask)
    reference = reference_logits(case.pmf, case.pixels, case.ids, case.mask)
    torch.testing.assert_close(fast, expected, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(reference, expected, rtol=0, atol=TOLERANCE)
    gradients = [
        torch.autograd.grad(cross_entropy(logits, case.labels), list(trained.values()))
        for logits in (expected, fast, reference)
    ]
    for name, wanted, *computed in zip(trained, *gradients, strict=True):
        for gradient in computed:
            torch.testing.assert_close(gradient, wanted, rtol=0, atol=TOLERANCE, msg=name)
        # At least ten times the tolerance: the comparison is meaningful for every tensor.
        assert wanted.abs().max() > 10 * TOLERANCE, name


@every_pair
def test_texts_without_padding_equal_layers_of_transformers(pair: tuple[TinyFamily, TinyFamily]) -> None:
    case = Case(pair, ARCHITECTURES[1])
    full = case.mask.all(dim=1)
    case.ids, case.pixels = case.ids[full], case.pixels[full]
    expected = oracle(case, None)
    for logits in (case.logits(case.ids, None), reference_logits(case.pmf, case.pixels, case.ids, None)):
        torch.testing.assert_close(logits, expected, rtol=0, atol=TOLERANCE)
    everywhere = torch.ones_like(case.ids, dtype=torch.bool)
    torch.testing.assert_close(case.logits(case.ids, None), case.logits(case.ids, everywhere), rtol=0, atol=TOLERANCE)


@every_case
def test_additional_padding_changes_nothing(pair: tuple[TinyFamily, TinyFamily], architecture: Architecture) -> None:
    case = Case(pair, architecture)
    ids = pad(case.ids, (0, 5), value=case.text.pad_id)
    mask = pad(case.mask, (0, 5), value=False)
    torch.testing.assert_close(case.logits(ids, mask), case.logits(case.ids, case.mask), rtol=0, atol=TOLERANCE)


@every_pair
def test_saved_model_gives_the_same_logits(pair: tuple[TinyFamily, TinyFamily], tmp_path: Path) -> None:
    case = Case(pair, ARCHITECTURES[0], torch.float32)
    image_encoder, text_encoder = case.pmf.encoders
    model = assemble(
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        trained=case.pmf,
        class_names=[str(index) for index in range(CLASSES)],
        max_text_tokens=text_encoder.max_text_tokens,
    )
    model.save_pretrained(tmp_path)
    loaded = FusionForClassification.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        expected = case.logits(case.ids, case.mask)
        for complete in (model, loaded):
            assert torch.equal(complete(case.pixels, case.ids, case.mask).logits, expected)
