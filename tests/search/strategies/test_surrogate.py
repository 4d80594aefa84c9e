import random

import numpy as np
import pytest
from numpy.typing import NDArray

from nas.models.fusion.pmf.architecture import GENES, PMFArchitecture
from nas.search.space import Architecture, SearchSpace
from nas.search.strategies.surrogate import BayesianLinearSurrogate

SPACE = SearchSpace(PMFArchitecture, {**dict.fromkeys(GENES, (1, 2, 3, 4)), "fusion_layer": (0, 1, 2)})
PER_LAYER = SearchSpace(
    PMFArchitecture, SPACE.choices, {"query_prompts": "layer", "mapping_width": "layer_and_direction"}, num_layers=3
)


def truth(architecture: Architecture) -> float:
    assert isinstance(architecture, PMFArchitecture)
    sizes, other = architecture.at(0)
    interaction = sizes.mapping_width * other.fusion_context_prompts
    return 0.3 * sizes.query_prompts + 0.2 * interaction - architecture.fusion_layer


@pytest.mark.parametrize(
    "space",
    [pytest.param(SPACE, id="shared"), pytest.param(PER_LAYER, id="per-layer", marks=pytest.mark.long)],
)
def test_posterior_equals_the_dual_form(space: SearchSpace) -> None:
    """Means and covariances of predictions, against the textbook's kernel form with every covariance written out."""
    rng = random.Random(0)
    observed, queried = [space.sample(rng) for _ in range(25)], [space.sample(rng) for _ in range(6)]
    values = np.array([truth(entry) + rng.gauss(0, 0.3) for entry in observed])
    surrogate = BayesianLinearSurrogate(space)
    for entry, value in zip(observed, values, strict=True):
        surrogate.observe(entry, (value,))
    generator = np.random.default_rng(0)
    draws = np.array([[value for (value,) in surrogate.draw(queried, generator)] for _ in range(20_000)])

    features, new = surrogate.features(observed), surrogate.features(queried)
    features = features - features.mean(axis=0)
    targets = (values - values.mean()) / values.std()

    def covariance(signal: float) -> NDArray[np.float64]:
        return np.asarray(signal * features @ features.T + (1 - signal) * np.eye(len(observed)))

    def evidence(signal: float) -> float:
        matrix = covariance(signal)
        return float(-0.5 * (np.linalg.slogdet(matrix)[1] + targets @ np.linalg.solve(matrix, targets)))

    signal = max((0.1, 0.3, 0.5, 0.7, 0.85, 0.95), key=evidence)
    cross = signal * new @ features.T
    expected = cross @ np.linalg.solve(covariance(signal), targets)
    spread = signal * new @ new.T - cross @ np.linalg.solve(covariance(signal), cross.T)
    np.testing.assert_allclose(draws.mean(axis=0), expected, atol=0.03)
    np.testing.assert_allclose(np.cov(draws.T), spread, atol=0.03)


def test_an_interaction_is_learned_from_few_noisy_scores() -> None:
    rng = random.Random(1)
    surrogate = BayesianLinearSurrogate(SPACE)
    for _ in range(60):
        entry = SPACE.sample(rng)
        surrogate.observe(entry, (truth(entry) + rng.gauss(0, 0.3),))
    everything = list(SPACE)
    generator = np.random.default_rng(0)
    means = np.mean([[value for (value,) in surrogate.draw(everything, generator)] for _ in range(30)], axis=0)
    assert np.corrcoef(means, [truth(entry) for entry in everything])[0, 1] > 0.9


def test_drawing_requires_observations() -> None:
    with pytest.raises(ValueError, match="no observations yet"):
        BayesianLinearSurrogate(SPACE).draw([SPACE.smallest], np.random.default_rng(0))


def test_equal_scores_give_finite_draws() -> None:
    surrogate = BayesianLinearSurrogate(SPACE)
    for entry in (SPACE.smallest, SPACE.largest, SPACE.smallest):
        surrogate.observe(entry, (0.5, 1.0))
    drawn = surrogate.draw([SPACE.smallest, SPACE.largest], np.random.default_rng(0))
    assert np.isfinite(drawn).all()
    assert np.shape(drawn) == (2, 2)
