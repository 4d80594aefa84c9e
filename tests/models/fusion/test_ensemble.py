"""An ensemble as one classifier: the mean of its members' probabilities, with every encoder layer computed once."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from nas.models.classifier import MULTI_LABEL, FusionForClassification
from nas.models.encoders.base import Encoder
from nas.models.encoders.bert import BertEncoder
from nas.models.encoders.vit import ViTEncoder
from nas.models.fusion.base import FusionModel
from nas.models.fusion.ensemble import mean_logits
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.supernet import build_model
from nas.run.export import assemble, assemble_ensemble
from nas.search.space import Architecture
from tests.support.classifiers import CLASSES, as_module
from tests.support.tiny import bert_model, raw_batch, vit_model

WEIGHTS = (0.5, 0.3, 0.2)
LATE_AND_EARLY = (PMFArchitecture(2, 2, 1, 3, 5), PMFArchitecture(0, 1, 2, 0, 4), PMFArchitecture(2, 1, 1, 1, 3))


@pytest.fixture(scope="module")
def pair() -> tuple[Encoder, Encoder]:
    return ViTEncoder(vit_model()), BertEncoder(bert_model())


def members_of(pair: tuple[Encoder, Encoder], architectures: Sequence[Architecture]) -> list[FusionModel]:
    return [
        build_model(
            image_encoder=pair[0], text_encoder=pair[1], architecture=architecture, num_classes=CLASSES, seed=seed
        ).double()
        for seed, architecture in enumerate(architectures)
    ]


def classifiers(
    pair: tuple[Encoder, Encoder], members: Sequence[FusionModel], threshold: float | None = None
) -> tuple[FusionForClassification, list[FusionForClassification]]:
    """Return the ensemble and each member as a classifier of its own."""
    shared = {
        "image_encoder": pair[0],
        "text_encoder": pair[1],
        "class_names": [str(index) for index in range(CLASSES)],
        "max_text_tokens": 12,
        "threshold": threshold,
    }
    ensemble = assemble_ensemble(list(zip(members, WEIGHTS, strict=True)), **shared)  # type: ignore[arg-type]
    singles = [assemble(trained=member, **shared) for member in members]  # type: ignore[arg-type]
    return ensemble.double(), [single.double() for single in singles]


def mean_of(probabilities: Sequence[Tensor]) -> Tensor:
    return sum((weight * entry for weight, entry in zip(WEIGHTS, probabilities, strict=True)), torch.zeros(()))


@pytest.mark.parametrize("several", [False, True])
def test_probabilities_are_the_weighted_mean_of_the_members(pair: tuple[Encoder, Encoder], several: bool) -> None:
    ensemble, singles = classifiers(pair, members_of(pair, LATE_AND_EARLY), 0.4 if several else None)
    assert (ensemble.config.problem_type == MULTI_LABEL) == several
    with torch.no_grad():
        logits, parts = ensemble(*raw_batch()).logits, [single(*raw_batch()).logits for single in singles]
    to_probabilities = torch.sigmoid if several else lambda values: values.softmax(1)
    expected = mean_of([to_probabilities(part) for part in parts])
    torch.testing.assert_close(to_probabilities(logits), expected, rtol=0, atol=1e-12)
    if not several:
        torch.testing.assert_close(logits, expected.log(), rtol=0, atol=1e-10)


def test_every_encoder_layer_is_computed_once_for_all_members(
    pair: tuple[Encoder, Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    ensemble, _ = classifiers(pair, members_of(pair, LATE_AND_EARLY))
    ran: list[tuple[str, int, int]] = []
    run = Encoder.run

    def counted(
        self: Encoder, rows: Tensor, bias: Tensor | None, *, start: int, stop: int, whole: bool = False
    ) -> Tensor:
        ran.extend((type(self).__name__, layer, layer + 1) for layer in range(start, stop))
        return run(self, rows, bias, start=start, stop=stop, whole=whole)

    monkeypatch.setattr(Encoder, "run", counted)
    with torch.no_grad():
        ensemble(*raw_batch())
    assert ran and len(ran) == len(set(ran)), "the members that start later read what the others read on the way"
    assert sum(name == "image_encoder" for name, _ in ensemble.named_children()) == 1


def test_gradients_of_unfrozen_encoders_are_those_of_the_mean(pair: tuple[Encoder, Encoder]) -> None:
    ensemble, singles = classifiers(pair, members_of(pair, LATE_AND_EARLY))
    for model in (ensemble, *singles):
        as_module(model).get_submodule("image_encoder").requires_grad_(True)
    labels = torch.arange(5) % CLASSES
    ensemble(*raw_batch(), labels=labels).loss.backward()
    probabilities = mean_of([single(*raw_batch()).logits.softmax(1) for single in singles])
    (-probabilities[torch.arange(5), labels].log().mean()).backward()
    found, *parts = [gradients_of_the_image_encoder(model) for model in (ensemble, *singles)]
    assert found
    for name, gradient in found.items():
        expected = sum((part[name] for part in parts if name in part), torch.zeros(()))
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-10)


def gradients_of_the_image_encoder(model: FusionForClassification) -> dict[str, Tensor]:
    named = as_module(model).get_submodule("image_encoder").named_parameters()
    return {name: parameter.grad for name, parameter in named if parameter.grad is not None}


def test_mean_logits_keep_the_precision_of_extreme_probabilities() -> None:
    first, second = torch.tensor([[80.0, 0.0, -80.0]]), torch.tensor([[70.0, 0.0, -90.0]])
    for several in (False, True):
        logits = mean_logits([first, second], [0.25, 0.75], has_several_labels=several)
        exact = mean_logits([first.double(), second.double()], [0.25, 0.75], has_several_labels=several)
        assert logits.isfinite().all()
        torch.testing.assert_close(logits, exact.float(), rtol=1e-6, atol=1e-6)
    low = mean_logits([first, second], [0.25, 0.75], has_several_labels=True)[0, 2]
    assert low.item() == pytest.approx(math.log(0.25 * math.exp(-80) + 0.75 * math.exp(-90)))


def test_logits_of_one_model_stay_as_they_are() -> None:
    logits = torch.randn(3, 4)
    assert mean_logits([logits], [1.0], has_several_labels=False) is logits
