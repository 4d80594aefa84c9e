"""Logistic regression on the readouts of the frozen encoders: the model of the family `linear`, solved in seconds.

Its loss is that of the recipe (class weights, label smoothing; of several labels, one binary regression each), plus an
L2 penalty on the weights for standardized inputs. The loss is convex, so L-BFGS finds the one optimum of each penalty.
The penalty is the one with the best validation score on a path from strong to weak, in which each problem starts from
the solution of the one before.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nas.data.samples import Labels
from nas.training.losses import Loss
from nas.training.metrics import evaluate_logits
from nas.training.stopping import StopRequested

PENALTIES = tuple(10 ** (exponent / 2) for exponent in range(2, -10, -1))
"""The penalties that are tried, strongest first: 10 to about 3e-5, by half powers of ten."""

_PATIENCE = 4
"""The number of weaker penalties in a row without a better score that end the path."""

_TOLERANCE, _PATH_TOLERANCE = 1e-6, 1e-5
"""The largest entry of the gradient at an optimum, and while penalties are compared, which costs half of the steps."""
_MAX_STEPS = 500
_HISTORY = 20
_SMALLEST_DEVIATION = 1e-6
"""The deviation of an input, as a fraction of the largest one, up to which it counts as constant."""

_BLOCK = 2048
"""The number of samples that are computed at once."""
_SCORE_DIGITS = 9
_LOSS_DIGITS = 6
"""Digits in which scores and losses of two penalties are compared, so that rounding does not decide."""


def _never() -> bool:
    return False


@dataclass(frozen=True)
class LinearSolution:
    """A linear classifier of inputs as they are, not standardized.

    Args:
        weight: The weight, (C, D), float64.
        bias: The bias, (C,), float64.
        step_count: The number of steps of the solver.
    """

    weight: Tensor
    bias: Tensor
    step_count: int

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the logits of the classifier in float32, as models compute it: (N, D) → (N, C)."""
        return torch.nn.functional.linear(inputs, self.weight.float(), self.bias.float())


@dataclass(frozen=True)
class LinearChoice:
    """The solution with the best score on validation.

    Args:
        solution: The solution.
        penalty: Its penalty.
        score: Its score.
        metrics: All its metrics on validation.
        logits: Its logits on validation, (N, C), float32.
    """

    solution: LinearSolution
    penalty: float
    score: float
    metrics: dict[str, float]
    logits: Tensor

    @property
    def rank(self) -> tuple[float, float]:
        """The order of solutions: by score, then by cross-entropy; the stronger penalty of equals is found first."""
        return round(self.score, _SCORE_DIGITS), -round(self.metrics["cross_entropy"], _LOSS_DIGITS)


def solver_bytes(
    train_count: int, validation_count: int, size: int, num_classes: int, *, correlated_count: int = 0
) -> int:
    """Return the memory that the solver needs, in bytes: inputs, what a block computes, and L-BFGS's history.

    The best solutions for other inputs and penalties, with their logits on validation, are included.

    Args:
        train_count: The number of training samples.
        validation_count: The number of validation samples.
        size: The number of inputs D.
        num_classes: The number of classes C.
        correlated_count: The number of inputs whose correlations are used; see `LinearProblem`.
    """
    block = min(train_count, _BLOCK)
    computed = 8 * block * (2 * size + 6 * num_classes)  # the inputs in float64 and a copy; logits and gradients
    kept = 2 * (8 * num_classes * (size + 1) + 4 * validation_count * num_classes)
    history = (2 * _HISTORY + 12) * 8 * num_classes * (size + 1)
    factors = 4 * 8 * correlated_count**2
    return 4 * (train_count + validation_count) * size + computed + kept + history + factors


class LinearProblem:
    """Logistic regression for one set of training samples.

    The inputs are neither copied nor converted as a whole: the loss is summed over blocks of samples.

    The solver works on coordinates in which the curvature of the loss is about the same in all directions: weights are
    divided by the square root of the curvature at zero weights. Without this, correlated inputs such as readouts take
    many more steps to the same optimum.

    Args:
        inputs: The inputs, (N, D), float32 or float64.
        labels: The labels of the samples.
        num_classes: The number of classes C.
        loss: The loss.
        correlated_count: The number of first inputs whose correlations the curvature includes, at the cost of N · this
            number squared; the others count as uncorrelated.
    """

    def __init__(
        self, inputs: Tensor, labels: Labels, num_classes: int, loss: Loss, *, correlated_count: int = 0
    ) -> None:
        self._inputs, self._labels = inputs, torch.from_numpy(labels)
        self._loss = loss
        self._total_weight = loss.total_weight(labels)
        count, size = inputs.shape
        self._mean = torch.stack([block.sum(dim=0) for block, _ in self._blocks()]).sum(dim=0) / count
        squares = torch.stack([(block - self._mean).square_().sum(dim=0) for block, _ in self._blocks()])
        deviation = (squares.sum(dim=0) / count).sqrt_()
        # A constant input, up to rounding, carries nothing; dividing by its deviation would only amplify the rounding.
        # So does one that is smaller than others by many orders: the weights of a solution must fit into float32.
        is_constant = (deviation <= 1e-6 * self._mean.abs()) | (deviation <= _SMALLEST_DEVIATION * deviation.max())
        self._factor = torch.where(is_constant, 0.0, 1 / deviation)
        self._standardized = torch.zeros(num_classes, size + 1, dtype=torch.float64)
        # p (1 − p) with equal probabilities: of C classes, or of the two answers for each of C labels.
        self._curvature = 0.25 / num_classes if labels.ndim == 2 else (num_classes - 1) / num_classes**2
        self._correlations = self._second_moments(correlated_count)

    def _second_moments(self, count: int) -> Tensor:
        """Return the mean products of the first inputs, standardized: (count, count)."""
        total = torch.zeros(count, count, dtype=torch.float64)
        if count:
            for inputs, _ in self._blocks():
                standardized = (inputs[:, :count] - self._mean[:count]) * self._factor[:count]
                total.addmm_(standardized.T, standardized)
        return total / len(self._inputs)

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the inputs of some samples in float64, and their labels."""
        for inputs, labels in zip(self._inputs.split(_BLOCK), self._labels.split(_BLOCK), strict=True):
            yield inputs.to(torch.float64), labels.to(torch.float64) if labels.ndim == 2 else labels

    def start_from(self, weight: Tensor, bias: Tensor) -> None:
        """Set the weights of the last solution, from which the next one starts.

        Args:
            weight: The weight for inputs as they are, (C, D).
            bias: The bias, (C,).
        """
        standardized = torch.where(self._factor == 0, 0.0, weight / self._factor)
        shift = bias + (standardized * self._factor) @ self._mean
        self._standardized = torch.cat([standardized, shift[:, None]], dim=1).to(torch.float64)

    def solve(
        self, penalty: float | Tensor, *, tolerance: float = _TOLERANCE, should_stop: Callable[[], bool] = _never
    ) -> LinearSolution:
        """Return the optimum for a penalty, starting from the last solution.

        Args:
            penalty: The factor λ of λ/2 · the sum of the squared weights, or one λ for each input, (D,), float64;
                biases have no penalty.
            tolerance: The largest entry of the gradient at which the solver stops.
            should_stop: Function that is called for every evaluation of the loss.

        Raises:
            StopRequested: If `should_stop` returned true.
        """
        penalties = torch.as_tensor(penalty, dtype=torch.float64).expand(len(self._mean))
        scaling = _Scaling(self._correlations, self._curvature, penalties)
        parameters = scaling.scaled(self._standardized).requires_grad_()
        solver = torch.optim.LBFGS(
            [parameters],
            max_iter=_MAX_STEPS,
            tolerance_grad=tolerance,
            tolerance_change=1e-14,
            history_size=_HISTORY,
            line_search_fn="strong_wolfe",
        )

        def evaluate() -> Tensor:
            if should_stop():
                raise StopRequested
            solver.zero_grad()
            standardized = scaling.unscaled(parameters)
            value = (penalties / 2 * standardized[:, :-1].square()).sum()
            # The gradient of the weights of plain inputs, summed over the blocks, then that of the parameters.
            plain = self._unstandardized(standardized)
            weight, bias = (entry.detach().requires_grad_() for entry in plain)
            total = value.detach()
            for inputs, labels in self._blocks():
                loss = self._loss.weighted_sum(inputs @ weight.T + bias, labels) / self._total_weight
                loss.backward()
                total += loss.detach()
            torch.autograd.backward([value, *plain], [torch.ones_like(value), weight.grad, bias.grad])
            return total

        solver.step(evaluate)
        self._standardized = scaling.unscaled(parameters).detach()
        state: Mapping[str, Any] = solver.state[parameters]
        return LinearSolution(*self._unstandardized(self._standardized), int(state["n_iter"]))

    def _unstandardized(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weight (C, D) and the bias (C,) for inputs as they are, given those for standardized ones."""
        weight = parameters[:, :-1] * self._factor
        return weight, parameters[:, -1] - weight @ self._mean


class _Scaling:
    """Coordinates of the weights for standardized inputs in which the curvature of the loss is about 1.

    Args:
        correlations: The mean products of the first inputs, (K, K).
        curvature: The curvature in the direction of an uncorrelated input, without the penalty.
        penalties: The penalty of each input, (D,).
    """

    def __init__(self, correlations: Tensor, curvature: float, penalties: Tensor) -> None:
        self._count = len(correlations)
        diagonal = penalties[: self._count].diag()
        self._factor = torch.linalg.cholesky(curvature * correlations + diagonal)
        self._roots = (curvature + penalties[self._count :]).sqrt()

    def scaled(self, weights: Tensor) -> Tensor:
        """Return the coordinates of weights with a bias in the last column, (C, D + 1)."""
        first, others, bias = self._parts(weights)
        return torch.cat([first @ self._factor, others * self._roots, bias], dim=1)

    def unscaled(self, coordinates: Tensor) -> Tensor:
        """Return the weights with a bias in the last column, (C, D + 1)."""
        first, others, bias = self._parts(coordinates)
        first = torch.linalg.solve_triangular(self._factor, first, upper=False, left=False)
        return torch.cat([first, others / self._roots, bias], dim=1)

    def _parts(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return values[:, : self._count], values[:, self._count : -1], values[:, -1:]


def choose_penalty(
    problem: LinearProblem,
    inputs: Tensor,
    labels: Labels,
    *,
    score: Callable[[Mapping[str, float]], float],
    penalties: Sequence[float] = PENALTIES,
    near: float | None = None,
    penalties_of_inputs: Callable[[float], Tensor | float] = float,
    should_stop: Callable[[], bool] = _never,
) -> LinearChoice:
    """Return the solution of the penalty with the best score on validation; of equals, that of the stronger one.

    Penalties are compared by solutions that are nearly optimal; that of the best is then solved to its optimum.

    Args:
        problem: The training samples.
        inputs: The inputs of the validation samples, (N, D), float32.
        labels: Their labels.
        score: Function that returns the score of some metrics, higher is better.
        penalties: The penalties to try, strongest first.
        near: One of them, from which the path goes in the direction in which the score gets better, as long as it does;
            None for a path from the strongest on.
        penalties_of_inputs: Function that returns the penalty of each input for one of them; by default it is equal.
        should_stop: Function that is called often; see `LinearProblem.solve`.

    Raises:
        StopRequested: If `should_stop` returned true.
    """

    def solved(penalty: float, tolerance: float = _PATH_TOLERANCE) -> LinearChoice:
        solution = problem.solve(penalties_of_inputs(penalty), tolerance=tolerance, should_stop=should_stop)
        logits = solution.logits(inputs)
        metrics = evaluate_logits(logits, torch.from_numpy(labels))
        return LinearChoice(solution, penalty, score(metrics), metrics, logits)

    if not penalties:
        raise ValueError("penalties: expected at least one, got none")
    if near is None:
        best = _best_of_path(map(solved, penalties), _PATIENCE)
    else:
        place = penalties.index(near)
        stronger, weaker = reversed(penalties[:place]), penalties[place + 1 :]
        first = solved(near)
        best = _best_of_path(map(solved, weaker), 1, first)
        if best is first:
            best = _best_of_path(map(solved, stronger), 1, first)
    problem.start_from(best.solution.weight, best.solution.bias)
    return solved(best.penalty, _TOLERANCE)


def _best_of_path(path: Iterable[LinearChoice], patience: int, best: LinearChoice | None = None) -> LinearChoice:
    """Return the best choice of a path, which ends after a number of choices in a row whose score is not better."""
    equal_count = 0
    for choice in path:
        is_better = best is None or choice.rank[0] > best.rank[0]
        if best is None or choice.rank > best.rank:
            best = choice
        equal_count = 0 if is_better else equal_count + 1
        if equal_count == patience:
            break
    assert best is not None, "the path is not empty"
    return best
