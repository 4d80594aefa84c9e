"""The moving average against its closed form, and the module that has it in place of its weights."""

import pytest
import torch
from torch import Tensor, nn

from nas.training.objectives.momentum import average_of, update_average, weights_replaced


class Tied(nn.Module):
    """Two maps that share a weight, and a list of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.listed = nn.ParameterList([torch.ones(3)])

    def forward(self, rows: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(rows)) * self.listed[0]
        return result


def test_average_of_constant_weights_approaches_them_geometrically() -> None:
    module = Tied().double()
    average = average_of(module)
    start = {name: tensor.clone() for name, tensor in average.items()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    for _ in range(7):
        update_average(average, module, 0.9)
    for name, parameter in module.named_parameters():
        expected = parameter.detach() - 0.9**7 * (parameter.detach() - start[name])
        torch.testing.assert_close(average[name], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_average_without_momentum_is_the_weights_and_with_momentum_one_never_changes(momentum: float) -> None:
    module = Tied()
    average = average_of(module)
    start = {name: tensor.clone() for name, tensor in average.items()}
    with torch.no_grad():
        module.first.weight.mul_(3.0)
    update_average(average, module, momentum)
    expected = start["first.weight"] if momentum else module.first.weight.detach()
    torch.testing.assert_close(average["first.weight"], expected, rtol=0, atol=1e-6)


def test_module_computes_with_the_other_weights_within_the_context_only() -> None:
    module, rows = Tied(), torch.randn(2, 3)
    before = module(rows).detach()
    other = {name: torch.zeros_like(tensor) for name, tensor in average_of(module).items()}
    other["first.bias"] += 1.0
    other["second.bias"] += 2.0
    other["listed.0"] += 5.0
    with weights_replaced(module, other):
        # The shared weight is replaced in both maps, so that only the last bias counts.
        assert module(rows).tolist() == [[10.0] * 3] * 2
    assert torch.equal(module(rows), before)
    assert all(isinstance(parameter, nn.Parameter) for parameter in module.parameters())
    assert module.first.weight is module.second.weight


def test_weights_return_after_an_error() -> None:
    module = Tied()
    weight = module.first.weight
    with pytest.raises(RuntimeError), weights_replaced(module, average_of(module)):
        module(torch.ones(2, 4))  # of the wrong size
    assert module.first.weight is weight
