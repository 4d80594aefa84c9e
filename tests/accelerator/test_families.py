"""Every fusion family and every encoder family on an accelerator: the logits and gradients of the CPU."""

import pytest
import torch
from torch import Tensor

from nas.models.encoders.base import Encoder
from nas.models.fusion.base import features_of
from nas.search.space import Architecture
from nas.search.space.family_registry import FAMILIES
from tests.models.fusion.test_contract import fresh
from tests.models.fusion.test_precision import CASES, PMF, case, check_rounding, hold, outcome
from tests.support.simulated_accelerator import operators
from tests.support.tiny import raw_batch
from tests.support.tiny_clip import pair_for
from tests.support.tiny_families import ALL_FAMILIES, TinyFamily

pytestmark = pytest.mark.accelerator


def step(family: str, pair: tuple[Encoder, Encoder], place: torch.device) -> dict[str, Tensor]:
    """Return the logits and the gradients of a training step."""
    for encoder in pair:
        encoder.to(place)
    model = fresh(family, pair=pair).to(place)
    pixels, ids, mask = (values.to(place) for values in raw_batch())
    logits = model(features_of(model.encoders, model.entry_layers(), pixels.float(), ids, mask))
    if logits.requires_grad:
        torch.autograd.backward(logits.square().mean())
    found = {"logits": logits} | {name: values.grad for name, values in model.named_parameters()}
    assert all(values is None or values.device == place for values in found.values())
    return {name: values.detach().cpu() for name, values in found.items() if values is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_step_of_every_fusion_family_equals_that_of_the_cpu(family: str, device: torch.device) -> None:
    expected = step(family, pair_for(family, torch.float32), torch.device("cpu"))
    found = step(family, pair_for(family, torch.float32), device)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ALL_FAMILIES, ids=str)
def test_every_encoder_family_equals_that_on_the_cpu(family: TinyFamily, device: torch.device) -> None:
    found = []
    for place in (torch.device("cpu"), device):
        encoder = family.encoder(family.model(dtype=torch.float32)).to(place)
        inputs, mask = family.batch(torch.float32)
        rows = encoder.embed(inputs.to(place))
        rows_mask = None if family.modality == "image" else mask.to(place)
        bias = encoder.data_bias(rows_mask, rows.shape[1], rows.dtype)
        rows = encoder.finish(encoder.run(rows, bias, start=0, stop=encoder.num_layers))
        found.append(encoder.pool(encoder.readout_rows(rows, rows_mask)).detach())
        assert found[-1].device == place
    torch.testing.assert_close(found[1].cpu(), found[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("family", "architecture"), CASES, ids=str)
def test_step_in_bfloat16_differs_from_float32_by_rounding(
    family: str, architecture: Architecture | None, device: torch.device
) -> None:
    check_rounding(*case(family, architecture, device))


@pytest.mark.usefixtures("simulated")
def test_no_weight_that_is_held_in_bfloat16_is_cast_in_a_step(device: torch.device) -> None:
    counts = []
    for is_held in (False, True):
        model, features = case("pmf", PMF[0], device)
        if is_held:
            hold(model.encoders)
        with operators() as found:
            outcome(model, features, is_half=True)
        counts.append(sum(found.values()))
    # A product reads a weight and a bias, each both ways; 2 fusing layers of 6 products, some of them of two parts.
    assert counts[0] - counts[1] > 100
