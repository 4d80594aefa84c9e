import random

import numpy as np
import pytest

from nas.models.fusion.pmf.architecture import GENES, PMFArchitecture
from nas.search.space import Architecture, SearchSpace
from nas.search.strategies.surrogate import BayesianLinearSurrogate

SPACE = SearchSpace(PMFArchitecture, {**dict.fromkeys(GENES, (1, 2, 3, 4)), "fusion_layer": (0, 1, 2)})
FREE = SearchSpace(
    PMFArchitecture, SPACE.choices, {"query_prompts": "layer", "mapping_width": "layer_and_direction"}, num_layers=3
)


def truth(architecture: Architecture) -> float:
    sizes, other = architecture.at(0)
    return (
        0.3 * sizes.query_prompts + 0.2 * sizes.mapping_width * other.fusion_context_prompts - architecture.fusion_layer
    )


@pytest.mark.parametrize("space", [SPACE, FREE], ids=["shared", "free"])
def test_the_posterior_is_that_of_the_textbook(space: SearchSpace) -> None:
    """Against the dual form, with every covariance written out: means and deviations of predictions."""
    rng = random.Random(0)
    seen, asked = [space.sample(rng) for _ in range(25)], [space.sample(rng) for _ in range(6)]
    values = np.array([truth(entry) + rng.gauss(0, 0.3) for entry in seen])
    surface = BayesianLinearSurrogate(space)
    for entry, value in zip(seen, values, strict=True):
        surface.tell(entry, (value,))
    generator = np.random.default_rng(0)
    draws = np.array([[value for (value,) in surface.draw(asked, generator)] for _ in range(20_000)])

    features, new = surface.features(seen), surface.features(asked)
    mean = features.mean(axis=0)
    features = features - mean
    targets = (values - values.mean()) / values.std()

    def covariance(signal: float) -> np.ndarray:
        return signal * features @ features.T + (1 - signal) * np.eye(len(seen))

    def evidence(signal: float) -> float:
        matrix = covariance(signal)
        return float(-0.5 * (np.linalg.slogdet(matrix)[1] + targets @ np.linalg.solve(matrix, targets)))

    signal = max((0.1, 0.3, 0.5, 0.7, 0.85, 0.95), key=evidence)
    cross = signal * new @ features.T
    expected = cross @ np.linalg.solve(covariance(signal), targets)
    spread = signal * new @ new.T - cross @ np.linalg.solve(covariance(signal), cross.T)
    np.testing.assert_allclose(draws.mean(axis=0), expected, atol=0.03)
    np.testing.assert_allclose(np.cov(draws.T), spread, atol=0.03)


def test_it_learns_an_interaction_from_few_noisy_scores() -> None:
    rng = random.Random(1)
    surface = BayesianLinearSurrogate(SPACE)
    for _ in range(60):
        entry = SPACE.sample(rng)
        surface.tell(entry, (truth(entry) + rng.gauss(0, 0.3),))
    everyone = list(SPACE)
    generator = np.random.default_rng(0)
    means = np.mean([[value for (value,) in surface.draw(everyone, generator)] for _ in range(30)], axis=0)
    assert np.corrcoef(means, [truth(entry) for entry in everyone])[0, 1] > 0.9


def test_equal_scores_and_no_scores_are_no_trouble() -> None:
    surface = BayesianLinearSurrogate(SPACE)
    with pytest.raises(ValueError, match="told nothing"):
        surface.draw([SPACE.smallest], np.random.default_rng(0))
    for entry in (SPACE.smallest, SPACE.largest, SPACE.smallest):
        surface.tell(entry, (0.5, 1.0))
    drawn = surface.draw([SPACE.smallest, SPACE.largest], np.random.default_rng(0))
    assert np.isfinite(drawn).all() and np.shape(drawn) == (2, 2)
