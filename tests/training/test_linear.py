"""The linear classifier's solver, against scikit-learn, conditions of optimality and an exhaustive choice."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from nas.data.samples import Labels
from nas.training.linear import PENALTIES, LinearProblem, choose_penalty
from nas.training.losses import Loss, class_weights
from nas.training.metrics import evaluate_logits
from nas.training.stopping import StopRequested


def data(count: int, size: int, classes: int, *, seed: int = 0, labels: Labels | None = None) -> tuple[Tensor, Labels]:
    """Return inputs whose scales and means differ, and labels that depend on them; class 0 is the most frequent."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(classes, size))
    if labels is None:
        labels = generator.choice(classes, count, p=np.arange(classes, 0, -1) / (classes * (classes + 1) / 2))
    directions = labels @ centres if labels.ndim == 2 else centres[labels]
    inputs = (generator.normal(size=(count, size)) + 0.7 * directions) * np.logspace(-2, 2, size) + np.arange(size)
    return torch.tensor(inputs, dtype=torch.float32), labels


def several_labels(count: int, classes: int, seed: int = 0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).random((count, classes)) < np.linspace(0.05, 0.6, classes)).astype(np.float32)


def loss_of(labels: Labels, classes: int, *, kind: str = "none", smoothing: float = 0.0) -> Loss:
    return Loss(class_weights(labels, classes, kind), smoothing)


@pytest.mark.parametrize("kind", ["none", "inverse_frequency"])
@pytest.mark.parametrize(("count", "size"), [(120, 6), (25, 60)], ids=["more samples", "fewer samples than inputs"])
@pytest.mark.parametrize("penalty", [1.0, 0.01])
@pytest.mark.parametrize("correlated_count", [0, 4, None], ids=["no correlations", "some correlations", "correlations"])
def test_solution_equals_that_of_scikit_learn(
    kind: str, count: int, size: int, penalty: float, correlated_count: int | None
) -> None:
    classes = 4
    inputs, labels = data(count, size, classes)
    loss = loss_of(labels, classes, kind=kind)
    correlated_count = size if correlated_count is None else correlated_count
    problem = LinearProblem(inputs, labels, classes, loss, correlated_count=correlated_count)
    solution = problem.solve(penalty, tolerance=1e-9)
    scaler = StandardScaler().fit(inputs.double().numpy())
    weights = class_weights(labels, classes, kind)
    expected = LogisticRegression(
        C=1 / (penalty * loss.total_weight(labels)),
        class_weight=None if weights is None else dict(enumerate(weights.double().tolist())),
        tol=1e-10,
        max_iter=20_000,
    ).fit(scaler.transform(inputs.double().numpy()), labels)
    others = data(50, size, classes, seed=1)[0]
    log_probabilities = expected.predict_log_proba(scaler.transform(others.double().numpy()))
    found = (others.double() @ solution.weight.T + solution.bias).log_softmax(dim=1)
    torch.testing.assert_close(found, torch.tensor(log_probabilities), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(solution.logits(others).log_softmax(dim=1).double(), found, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["none", "inverse_frequency"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradient_over_several_labels_is_zero(kind: str, smoothing: float) -> None:
    """The gradient is that of the formula: p − t, weighted, times the standardized inputs, plus the penalty."""
    count, size, classes, penalty = 60, 5, 3, 0.05
    labels = several_labels(count, classes)
    labels[:, 2] = 0
    labels[4, 2] = 1  # a single positive sample
    inputs, _ = data(count, size, classes, labels=labels)
    loss = loss_of(labels, classes, kind=kind, smoothing=smoothing)
    solution = LinearProblem(inputs, labels, classes, loss).solve(penalty, tolerance=1e-10)
    plain, scale = inputs.double().numpy(), inputs.double().numpy().std(axis=0)
    standardized = (plain - plain.mean(axis=0)) / scale
    probabilities = 1 / (1 + np.exp(-(plain @ solution.weight.numpy().T + solution.bias.numpy())))
    positive = count / (classes * labels.sum(axis=0)) if kind == "inverse_frequency" else np.ones(classes)
    label_weights = np.where(labels > 0, positive, 1.0)
    targets = labels * (1 - smoothing) + smoothing / 2
    errors = label_weights * (probabilities - targets) / label_weights.sum()
    gradient = errors.T @ standardized + penalty * solution.weight.numpy() * scale
    assert np.abs(gradient).max() < 1e-7 and np.abs(errors.sum(axis=0)).max() < 1e-7


def test_classes_with_one_sample_or_none_have_finite_weights() -> None:
    labels = np.array([0] * 30 + [1] * 8 + [2], dtype=np.int64)
    inputs, _ = data(len(labels), 12, 4, labels=labels)
    solution = LinearProblem(inputs, labels, 4, loss_of(labels, 4, kind="inverse_frequency")).solve(1e-3)
    logits = solution.logits(inputs)
    assert logits.isfinite().all() and (logits.argmax(dim=1) == torch.from_numpy(labels)).all()
    assert (logits.softmax(dim=1)[:, 3] < 1e-3).all()


def test_penalties_of_single_inputs_equal_one_penalty_of_scaled_inputs() -> None:
    """An input times √(λ/λ') with the penalty λ is the same as the input itself with the penalty λ'."""
    inputs, labels = data(60, 5, 3)
    standardized = torch.from_numpy(StandardScaler().fit_transform(inputs.double().numpy()))
    penalties = torch.tensor([0.1, 0.1, 0.01, 1.0, 0.4], dtype=torch.float64)
    found = LinearProblem(inputs, labels, 3, loss_of(labels, 3), correlated_count=3).solve(penalties, tolerance=1e-9)
    scaled = standardized * (0.1 / penalties).sqrt()
    expected = LogisticRegression(C=1 / (0.1 * 60), tol=1e-10, max_iter=20_000).fit(scaled.numpy(), labels)
    logits = inputs.double() @ found.weight.T + found.bias
    probabilities = torch.from_numpy(expected.predict_proba(scaled.numpy()))
    torch.testing.assert_close(logits.softmax(dim=1), probabilities, rtol=1e-4, atol=1e-5)


def test_solver_takes_no_step_from_the_solution() -> None:
    inputs, labels = data(60, 5, 3)
    loss = loss_of(labels, 3)
    solution = LinearProblem(inputs, labels, 3, loss).solve(0.1, tolerance=1e-9)
    again = LinearProblem(inputs, labels, 3, loss, correlated_count=5)
    again.start_from(solution.weight, solution.bias)
    found = again.solve(0.1)
    assert found.step_count <= 1
    torch.testing.assert_close(found.weight, solution.weight, rtol=0, atol=1e-6)


def test_correlations_save_steps() -> None:
    """Readouts are correlated: a few directions have most of the variance."""
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(30, 30)) * np.logspace(0, -3, 30)
    _, labels = data(200, 4, 3)
    plain = generator.normal(size=(200, 30))
    plain[:, -3:] += np.eye(3)[labels]
    inputs, loss = torch.tensor(plain @ mixing.T, dtype=torch.float32), loss_of(labels, 3)
    steps = [LinearProblem(inputs, labels, 3, loss, correlated_count=count).solve(1e-4).step_count for count in (0, 30)]
    assert steps[1] < steps[0] / 4


def test_units_and_constants_of_inputs_do_not_matter() -> None:
    inputs, labels = data(50, 6, 3)
    loss = loss_of(labels, 3)
    expected = LinearProblem(inputs, labels, 3, loss).solve(0.1, tolerance=1e-9)
    changed = torch.cat([inputs.double() * 37 - 5, torch.full((50, 2), 0.3, dtype=torch.float64)], dim=1)
    found = LinearProblem(changed, labels, 3, loss).solve(0.1, tolerance=1e-9)
    torch.testing.assert_close(
        changed @ found.weight.T + found.bias, inputs.double() @ expected.weight.T + expected.bias, rtol=0, atol=1e-6
    )
    assert not found.weight[:, 6:].any()


def test_input_that_is_smaller_than_others_by_many_orders_counts_as_constant() -> None:
    """LayerNorm with an extinct gain puts out such values; their weights would not fit into float32."""
    inputs, labels = data(50, 6, 3)
    inputs[:, 2] *= 1e-36
    solution = LinearProblem(inputs, labels, 3, loss_of(labels, 3)).solve(0.1)
    assert not solution.weight[:, 2].any() and solution.logits(inputs).isfinite().all()


@pytest.mark.parametrize("is_multi_label", [False, True])
def test_choice_equals_an_exhaustive_one(is_multi_label: bool) -> None:
    classes = 3
    inputs, labels = data(40, 20, classes, labels=several_labels(40, classes) if is_multi_label else None)
    validation, held_out = data(
        80, 20, classes, seed=1, labels=several_labels(80, classes, seed=1) if is_multi_label else None
    )
    loss = loss_of(labels, classes)

    def score(metrics: Mapping[str, float]) -> float:
        return metrics["macro_f1"]

    choice = choose_penalty(LinearProblem(inputs, labels, classes, loss), validation, held_out, score=score)
    ranks = {}
    for penalty in PENALTIES:
        logits = LinearProblem(inputs, labels, classes, loss).solve(penalty).logits(validation)
        metrics = evaluate_logits(logits, torch.from_numpy(held_out))
        ranks[penalty] = (round(score(metrics), 9), -round(metrics["cross_entropy"], 3))
    assert ranks[choice.penalty] == max(ranks.values()) and choice.score == score(choice.metrics)
    assert choice.metrics == evaluate_logits(choice.solution.logits(validation), torch.from_numpy(held_out))


@pytest.mark.parametrize("near", [0, 5, len(PENALTIES) - 1])
def test_choice_near_a_penalty_walks_to_the_best_one(near: int) -> None:
    inputs, labels = data(40, 20, 3)
    validation, held_out = data(80, 20, 3, seed=1)
    tried = []

    def score(metrics: Mapping[str, float]) -> float:
        tried.append(metrics)
        return -metrics["cross_entropy"]  # has one minimum over the penalties

    problem = LinearProblem(inputs, labels, 3, loss_of(labels, 3))
    expected = choose_penalty(problem, validation, held_out, score=score, penalties=PENALTIES)
    tried.clear()
    choice = choose_penalty(problem, validation, held_out, score=score, near=PENALTIES[near])
    assert choice.penalty == expected.penalty and choice.score == pytest.approx(expected.score, abs=1e-4)
    best = PENALTIES.index(expected.penalty)
    assert 0 < best < len(PENALTIES) - 1 and len(tried) <= abs(near - best) + 4, "both neighbours, and the optimum"


def test_of_equal_scores_the_lower_loss_decides_and_then_the_stronger_penalty() -> None:
    inputs, labels = data(30, 4, 2)
    problem = LinearProblem(inputs, labels, 2, loss_of(labels, 2))
    equal = choose_penalty(problem, inputs, labels, score=lambda metrics: 1.0)
    # On the training samples themselves, the loss falls with the penalty; the path ends four penalties after the first.
    assert equal.penalty == PENALTIES[4]
    constant = torch.zeros(30, 4)
    nothing = choose_penalty(
        LinearProblem(constant, labels, 2, loss_of(labels, 2)), constant, labels, score=lambda metrics: 1.0
    )
    assert nothing.penalty == PENALTIES[0] and not nothing.solution.weight.any()


def test_class_that_is_missing_in_validation_does_not_matter() -> None:
    inputs, labels = data(60, 5, 3)
    validation, held_out = data(20, 5, 3, seed=1, labels=np.array([0, 1] * 10, dtype=np.int64))
    choice = choose_penalty(
        LinearProblem(inputs, labels, 3, loss_of(labels, 3)),
        validation,
        held_out,
        score=lambda metrics: metrics["balanced_accuracy"],
    )
    assert 0.5 < choice.score <= 1 and all(np.isfinite(value) for value in choice.metrics.values())


def test_same_data_give_the_same_bits() -> None:
    inputs, labels = data(40, 8, 3)
    solutions = [LinearProblem(inputs, labels, 3, loss_of(labels, 3)).solve(0.01) for _ in range(2)]
    assert torch.equal(solutions[0].weight, solutions[1].weight) and torch.equal(solutions[0].bias, solutions[1].bias)


def test_solver_stops_on_request() -> None:
    inputs, labels = data(40, 8, 3)
    with pytest.raises(StopRequested):
        LinearProblem(inputs, labels, 3, loss_of(labels, 3)).solve(0.01, should_stop=lambda: True)
