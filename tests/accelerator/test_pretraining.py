"""A pretraining on an accelerator: the losses of the CPU, no waiting, and the predicted peak."""

import pytest
import torch

from nas.common import devices
from nas.common.devices import CPU
from nas.memory.prediction import TraceCache
from nas.search.pretraining import OBJECTIVES
from nas.training.pretraining.pairs import PairBatch
from nas.training.pretraining.settings import PretrainingSettings
from nas.training.pretraining.step import Pretrainer
from tests.accelerator.test_memory import LARGEST_ERROR, live_bytes, needed
from tests.memory.test_pretraining import ARCHITECTURE, predictions, real_pairs, settings_of
from tests.support.simulated_accelerator import SYNCHRONISATIONS, operators, operators_so_far
from tests.support.tiny_memory import real_encoders
from tests.support.tiny_pairs import TinyPairs

pytestmark = pytest.mark.accelerator

SETTINGS = settings_of(OBJECTIVES)


@pytest.fixture
def pairs() -> PairBatch:
    torch.manual_seed(0)
    return real_pairs(SETTINGS)


def pretrainer_on(device: torch.device, settings: PretrainingSettings = SETTINGS) -> Pretrainer:
    image, text = real_encoders()
    torch.manual_seed(1)
    model = TinyPairs(image_encoder=image, text_encoder=text, architecture=ARCHITECTURE, num_classes=5)
    return Pretrainer(model.to(device), settings)


def test_losses_are_those_of_the_cpu(device: torch.device, pairs: PairBatch) -> None:
    found = []
    for place in (CPU, device):
        pretrainer = pretrainer_on(place)
        for step in range(3):
            pretrainer.step(step, pairs, 0.4)
        pretrainer.losses.finish()
        found.append(pretrainer.losses.take())
    assert len(found[1]) == 3 and found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.usefixtures("simulated")
def test_host_waits_for_nothing_in_a_step(device: torch.device, pairs: PairBatch) -> None:
    pretrainer, pairs = pretrainer_on(device), pairs.pinned()
    pretrainer.step(0, pairs, 0.4)
    with operators():
        pretrainer.step(1, pairs, 0.4)
        before = operators_so_far()
        pretrainer.step(2, pairs, 0.4)
        after = operators_so_far()
    found = {name: after.get(name, 0) - before.get(name, 0) for name in SYNCHRONISATIONS}
    assert found == dict.fromkeys(SYNCHRONISATIONS, 0)


def test_predicted_peak_is_that_of_the_allocator(
    device: torch.device, pairs: PairBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = predictions(SETTINGS, monkeypatch, TraceCache(device))
    memory.holds_supernet = False
    predicted = needed(memory.predict(ARCHITECTURE))
    before = live_bytes(device)
    pretrainer = pretrainer_on(device)
    pretrainer.fill_queue(pairs)
    devices.start_peak(device)
    for step in range(2):
        pretrainer.step(step, pairs, 0.4)
    measured = devices.allocated_peak_bytes(device) - before
    assert predicted == pytest.approx(measured, rel=LARGEST_ERROR)
