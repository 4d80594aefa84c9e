"""Every fusion family in bfloat16: as near to float32 as the layers of `transformers` under the same autocast.

A bfloat16 number has 8 significant bits, so rounding changes it by at most U = 2⁻⁸ of its size. The norm of the change
of all logits, and of all gradients, is compared with the norm of these.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nas.models.encoders.base import Encoder
from nas.models.encoders.held_weights import hold_products_in, product_weights
from nas.models.fusion.base import Features, FusionModel, features_of
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.pmf.model import PMF as PMFModel
from nas.search.space import Architecture
from nas.search.space.family_registry import FAMILIES
from tests.models.fusion.pmf.test_model import with_stored_attention
from tests.models.fusion.test_contract import PAIRS, fresh
from tests.support.tiny import raw_batch
from tests.support.tiny_clip import pair_for
from tests.support.tiny_families import TinyFamily

U = 2.0**-8
PMF = (
    PMFArchitecture(1, 4, 4, 4, 12),  # projections that are absorbed
    PMFArchitecture(0, 9, 2, 1, 6),  # keys and values
    PMFArchitecture(2, 2, 1, 3, 5, text_readout=1),
)
CASES: list[tuple[str, Architecture | None]] = [("pmf", entry) for entry in PMF]
CASES += [(family, None) for family in FAMILIES if family != "pmf"]
in_every_case = pytest.mark.parametrize(("family", "architecture"), CASES, ids=str)


Batch = tuple[Tensor, Tensor, Tensor]


def case(
    family: str,
    architecture: Architecture | None,
    place: torch.device,
    pair: tuple[Encoder, Encoder] | None = None,
    batch: Batch | None = None,
) -> tuple[FusionModel, Features]:
    """Return a float32 model and the inputs of a batch."""
    pair = pair or pair_for(family, torch.float32)
    for encoder in pair:
        encoder.to(place)
    model = fresh(family, architecture, pair).to(place)
    pixels, ids, mask = (values.to(place) for values in batch or raw_batch())
    return model, features_of(model.encoders, model.entry_layers(), pixels.float(), ids, mask)


def hold(pair: Sequence[Encoder]) -> None:
    for encoder in pair:
        hold_products_in(encoder, torch.bfloat16)


def outcome(model: FusionModel, features: Features, *, is_half: bool) -> tuple[Tensor, Tensor]:
    """Return the logits, and the gradients of all trained tensors in one vector."""
    place, trained = model.device, list(model.parameters())
    with torch.autocast(place.type, torch.bfloat16, enabled=is_half):
        logits = model(features)
        loss = cross_entropy(logits, torch.arange(len(logits), device=place) % logits.shape[1])
    gradients = torch.autograd.grad(loss, trained, materialize_grads=True) if trained else ()
    assert logits.dtype == loss.dtype == torch.float32
    for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True):
        assert gradient.dtype == torch.float32 and gradient.isfinite().all(), name
    return logits.detach().cpu(), torch.cat([torch.ones(1), *(gradient.flatten().cpu() for gradient in gradients)])


def changes(found: Sequence[Tensor], exact: Sequence[Tensor]) -> list[float]:
    return [float((got - want).norm() / want.norm()) for got, want in zip(found, exact, strict=True)]


def check_rounding(model: FusionModel, features: Features) -> None:
    """Check a training step in bfloat16 against one in float32, and against whole layers under the same autocast."""
    exact = outcome(model, features, is_half=False)
    whole = changes(outcome(model, replace(features, whole_layers=True), is_half=True), exact)
    hold(model.encoders)
    found = changes(outcome(model, features, is_half=True), exact)
    # The gradient of a cosine is small: what changes the length of a vector is left out of it.
    largest = 16 * U if model.architecture.reads_class_texts else 8 * U
    for got, reference, bound in zip(found, whole, (4 * U, largest), strict=True):
        assert got < bound
        assert got < 1.5 * reference + U / 2


@in_every_case
def test_step_differs_from_float32_by_rounding(family: str, architecture: Architecture | None) -> None:
    check_rounding(*case(family, architecture, torch.device("cpu")))


@pytest.mark.parametrize("architecture", PMF, ids=str)
def test_stored_attention_and_tokens_of_half_precision_change_no_more(architecture: PMFArchitecture) -> None:
    model, features = case("pmf", architecture, torch.device("cpu"))
    assert isinstance(model, PMFModel)
    exact = outcome(model, features, is_half=False)
    stored = with_stored_attention(model, features).to(torch.float16)
    hold(model.encoders)
    logits, gradients = changes(outcome(model, stored, is_half=True), exact)
    assert logits < 4 * U and gradients < 8 * U


@pytest.mark.parametrize("encoders_of", PAIRS, ids=lambda pair: f"{pair[0]}, {pair[1]}")
def test_step_with_every_encoder_family_differs_by_rounding(encoders_of: tuple[TinyFamily, TinyFamily]) -> None:
    image, text = encoders_of
    pair = image.encoder(image.model(4, 24, torch.float32)), text.encoder(text.model(3, 24, torch.float32))
    batch = image.batch()[0], *text.batch()
    check_rounding(*case("pmf", PMFArchitecture(1, 4, 4, 4, 12), torch.device("cpu"), pair, batch))


def test_only_the_weights_of_products_are_held_in_bfloat16() -> None:
    image, text = pair_for("pmf", torch.float32)
    hold([image, text])
    for encoder in (image, text):
        held = {name for *_, name in product_weights(encoder.model)}
        found = {name for name, weight in encoder.model.named_parameters() if weight.dtype == torch.bfloat16}
        assert held == found and not [name for name in found if "norm" in name.lower() or "embedding" in name]
        assert len(found) == 12 * encoder.num_layers  # six products a layer, each with a bias


def test_forgotten_autocast_is_an_error() -> None:
    model, features = case("pmf", PMF[0], torch.device("cpu"))
    hold(model.encoders)
    with pytest.raises(RuntimeError):  # of oneDNN, or of torch: the dtypes differ
        model(features)
