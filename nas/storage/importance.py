"""The importance of genes for the score of architectures, computed by Optuna."""

from collections.abc import Sequence

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from nas.search.space import Architecture


def gene_importance(architectures: Sequence[Architecture], scores: Sequence[float]) -> dict[str, float]:
    """Return the importance of each gene that has several values, the most important first; they add up to 1.

    By PED-ANOVA (Watanabe et al., IJCAI 2023): how much the values of a gene among the best tenth of the architectures
    differ from those among all. Genes with one value for each layer count as a whole.

    Args:
        architectures: Architectures of one family.
        scores: Their scores, higher is better.

    Returns:
        The share of each gene; empty where all scores or all architectures are equal.
    """
    texts = [architecture.texts() for architecture in architectures]
    choices = {name: sorted({entry[name] for entry in texts}) for name in (texts[0] if texts else ())}
    genes = {name: CategoricalDistribution(values) for name, values in choices.items() if len(values) > 1}
    if not genes or len(set(scores)) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={name: entry[name] for name in genes}, distributions=dict(genes), value=score
            )
            for entry, score in zip(texts, scores, strict=True)
        ]
    )
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
