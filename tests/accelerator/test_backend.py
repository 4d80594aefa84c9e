"""The simulated accelerator itself: it computes what the CPU computes, and refuses what a GPU refuses."""

import pytest
import torch
from torch import nn

from nas.common import devices
from tests.support.simulated_accelerator import NAME, cpu_operators, operators

pytestmark = [pytest.mark.accelerator, pytest.mark.usefixtures("simulated")]


def test_it_is_the_accelerator_of_this_process(device: torch.device) -> None:
    assert devices.accelerator() == devices.device_of("auto") == devices.device_of(NAME) == device
    assert devices.is_accelerator(device)


def test_training_step_equals_that_of_the_cpu(device: torch.device) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(3, 3, 8, 8)
    layers = nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.Flatten(), nn.Linear(64, 8), nn.GELU(), nn.LayerNorm(8))
    weights = {}
    for place in (torch.device("cpu"), device):
        copy = nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.Flatten(), nn.Linear(64, 8), nn.GELU(), nn.LayerNorm(8))
        copy.load_state_dict(layers.state_dict())
        copy.to(place)
        optimizer = torch.optim.SGD(copy.parameters(), lr=0.1, momentum=0.9)
        torch.autograd.backward(copy(inputs.to(place)).square().mean())
        optimizer.step()
        assert {parameter.device for parameter in copy.parameters()} == {place}
        weights[place.type] = {name: values.cpu() for name, values in copy.state_dict().items()}
    torch.testing.assert_close(weights[NAME], weights["cpu"])


def test_tensors_of_two_devices_cannot_be_mixed_but_numbers_and_indices_can(device: torch.device) -> None:
    ours, host = torch.ones(2, 3, device=device), torch.ones(2, 3)
    for mix in (lambda: ours + host, lambda: ours @ host.T, lambda: torch.cat([ours, host])):
        with pytest.raises(RuntimeError, match=r"expected all tensors|Expected all tensors"):
            mix()  # type: ignore[no-untyped-call]
    assert (ours + torch.tensor(1.0)).sum().item() == 12
    assert ours[torch.tensor([0, 1, 1])].shape == (3, 3)


def test_views_share_memory(device: torch.device) -> None:
    whole = torch.zeros(4, 6, device=device)
    whole.t()[1:3].view(2, 4).fill_(1)
    assert whole.cpu().sum(dim=0).tolist() == [0, 4, 4, 0, 0, 0]
    assert torch.equal(whole.unfold(1, 2, 2).cpu(), whole.cpu().unfold(1, 2, 2))


def test_memory_is_counted_and_limited(device: torch.device) -> None:
    devices.start_peak(device)
    before = devices.peak_bytes(device)
    held = torch.empty(1000, device=device)
    assert devices.peak_bytes(device) - before == 4096, "in blocks of 512 bytes"
    del held
    assert devices.peak_bytes(device) - before == 4096
    devices.start_peak(device)
    assert devices.peak_bytes(device) == before
    devices.limit_memory(device, before + 2**20)
    try:
        with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
            torch.empty(2**20, device=device)
    finally:
        devices.limit_memory(device, None)
    torch.empty(2**20, device=device)


def test_operators_and_waits_of_the_host_are_counted(device: torch.device) -> None:
    ours = torch.ones(3, device=device)
    with operators() as counts:
        (ours * 2).sum().item()
    assert counts == {"aten::mul": 1, "aten::sum": 1, "_local_scalar_dense": 1}


def test_operators_that_only_a_cpu_has_are_refused(device: torch.device) -> None:
    assert len(cpu_operators()) > 30 and "aten::_scaled_dot_product_flash_attention_for_cpu" in cpu_operators()
    ours = torch.ones(1, 2, 4, 8, device=device)
    calls = [
        lambda: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(ours, ours, ours),
        lambda: torch.histogram(ours.flatten(), 4),
        lambda: torch.ops.mkldnn._linear_pointwise(ours[0, 0], torch.ones(3, 8, device=device), None, "none", [], ""),
    ]
    for call in calls:
        with pytest.raises(NotImplementedError, match="a GPU has no kernel for this operator"):
            call()  # type: ignore[no-untyped-call]


def test_matrix_products_are_of_lower_precision_under_autocast(device: torch.device) -> None:
    layer = nn.Linear(4, 4).to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        product = layer(torch.ones(2, 4, device=device))
        assert product.dtype == torch.bfloat16 and product.exp().dtype == torch.float32
