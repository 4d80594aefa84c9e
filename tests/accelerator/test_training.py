"""Training steps on an accelerator: the host looks at their losses late, and never too late."""

from collections.abc import Callable

import pytest
import torch

from nas.common.devices import HostCopy
from nas.common.errors import TrainingError
from nas.config.schema import Config
from nas.data.features.store import FeatureSplit
from nas.models.fusion.base import FusionModel
from nas.models.fusion.supernet import extract
from nas.training.trainer import train
from tests.support.simulated_accelerator import SYNCHRONISATIONS, operators, operators_so_far
from tests.support.supernet_training import TrainingCase, fresh_supernet, load_checkpoint, train_case

pytestmark = pytest.mark.accelerator


def on(device: torch.device, model: FusionModel) -> FusionModel:
    for encoder in model.encoders:
        encoder.to(device)
    return model.to(device)


@pytest.fixture
def fails_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[FusionModel, int], Callable[[], bool]]:
    """Function that returns a `should_stop` which makes the loss of a step infinite."""

    def build(model: FusionModel, step: int) -> Callable[[], bool]:
        calls = 0

        def should_stop() -> bool:
            nonlocal calls
            if calls == step:
                with torch.no_grad():
                    next(value for name, value in model.named_parameters() if "classifier" in name).fill_(torch.inf)
            calls += 1
            return False

        return should_stop

    return build


@pytest.mark.usefixtures("simulated")
def test_copy_on_the_host_arrives_when_it_is_waited_for(device: torch.device) -> None:
    ours = torch.ones(3, device=device)
    with operators() as counts:
        copied = HostCopy(ours * 2)
        ours.add_(1)
        assert copied.wait().tolist() == [2, 2, 2]
    assert not set(counts) & set(SYNCHRONISATIONS)
    with operators() as counts:
        HostCopy(ours).wait()
    assert counts["wait for all"] == 1, "waiting for the last operation leaves the device without work"


@pytest.mark.usefixtures("simulated")
def test_slice_of_the_supernet_stays_on_the_device(config: Config, device: torch.device) -> None:
    architecture = config.space.smallest
    expected = extract(fresh_supernet(config), architecture)
    whole = on(device, fresh_supernet(config))
    with operators() as counts:
        found = extract(whole, architecture).to(device)
    assert not {"copy from host", "copy to host"} & counts.keys()
    assert {tensor.device for tensor in found.parameters()} == {device}
    values = {name: tensor.cpu() for name, tensor in found.state_dict().items()}
    torch.testing.assert_close(values, expected.state_dict(), rtol=0, atol=0)
    assert all(tensor.requires_grad for tensor in found.parameters())


def test_losses_have_the_numbers_of_their_steps(
    split: FeatureSplit, config: Config, fresh: Callable[..., FusionModel], device: torch.device
) -> None:
    found = []
    for place in (torch.device("cpu"), device):
        losses: list[tuple[int, float]] = []
        train(
            model=on(place, fresh()),
            split=split,
            recipe=config.recipe,
            step_count=4,
            seed=0,
            on_step=lambda step, loss, losses=losses: losses.append((step, loss)),  # type: ignore[misc]
        )
        found.append(dict(losses))
    assert list(found[1]) == [1, 2, 3, 4] and found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.parametrize("step", [0, 2, 3])
def test_loss_that_is_not_finite_is_an_error_of_its_step(
    split: FeatureSplit,
    config: Config,
    fresh: Callable[..., FusionModel],
    fails_at: Callable[[FusionModel, int], Callable[[], bool]],
    device: torch.device,
    step: int,
) -> None:
    model = on(device, fresh())
    with pytest.raises(TrainingError, match=rf"the loss is (nan|inf) at step {step};"):
        train(model=model, split=split, recipe=config.recipe, step_count=4, seed=0, should_stop=fails_at(model, step))


def test_supernet_is_not_saved_after_a_loss_that_is_not_finite(
    case: TrainingCase, fails_at: Callable[[FusionModel, int], Callable[[], bool]], device: torch.device
) -> None:
    supernet = on(device, fresh_supernet(case.config))
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step 3;"):
        train_case(case, supernet, should_stop=fails_at(supernet, 3))
    state = load_checkpoint(case.checkpoint)
    assert state["step"] == 2 and all(values.isfinite().all() for values in state["model"].values())


@pytest.mark.usefixtures("simulated")
def test_host_waits_for_nothing_in_a_supernet_step(case: TrainingCase, device: torch.device) -> None:
    counts: list[dict[str, int]] = []

    def should_stop() -> bool:
        counts.append(operators_so_far())
        return False

    with operators():
        train_case(case, on(device, fresh_supernet(case.config)), should_stop=should_stop)
    before, after = counts[-2:]  # the last step, after which no checkpoint is due
    found = {name: after.get(name, 0) - before.get(name, 0) for name in SYNCHRONISATIONS}
    assert found == dict.fromkeys(SYNCHRONISATIONS, 0)
