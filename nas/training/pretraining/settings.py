"""What a pretraining consists of, from the configuration of a search."""

from dataclasses import dataclass

from nas.config.pretraining_schema import PretrainingConfig
from nas.config.schema import Config
from nas.config.training_schema import LearningRatesConfig, RecipeConfig
from nas.data.mask_vocabulary import MaskVocabulary
from nas.search.pretraining import Objective
from nas.search.space import Architecture


@dataclass(frozen=True)
class PretrainingSettings:
    """What a pretraining consists of.

    Args:
        config: The section `pretraining`.
        objectives: The objectives; at least one.
        recipe: The optimizer, the batch size, the schedule and the precision, with the learning rates of the
            pretraining.
        vocabulary: The vocabulary of the text encoder; only masked language modelling needs it.
    """

    config: PretrainingConfig
    objectives: tuple[Objective, ...]
    recipe: RecipeConfig
    vocabulary: MaskVocabulary | None = None

    @classmethod
    def of(
        cls,
        config: Config,
        architecture_class: type[Architecture],
        vocabulary: MaskVocabulary | None,
        recipe: RecipeConfig | None = None,
    ) -> "PretrainingSettings | None":
        """Return the settings of a search; None if its models are not pretrained.

        Args:
            config: The configuration of the search.
            architecture_class: The architectures of the family.
            vocabulary: The vocabulary of the text encoder, where it is known.
            recipe: The recipe of the training that follows; by default that of the search.
        """
        objectives, recipe = config.pretraining.objectives_of(architecture_class), recipe or config.recipe
        if not objectives:
            return None
        rate = config.pretraining.learning_rate
        if rate is not None:
            recipe = recipe.replace(learning_rates=LearningRatesConfig.of_all(rate), depth_scaling=0.0)
        return cls(config.pretraining, objectives, recipe, vocabulary)

    @property
    def has_momentum_model(self) -> bool:
        """Whether a moving average of the weights is needed."""
        distils_language = "masked_language" in self.objectives and self.config.distillation > 0
        return "contrastive" in self.objectives or distils_language

    @property
    def step_count(self) -> int:
        """The number of all steps, those on texts alone included."""
        return self.config.text_steps + self.config.steps

    def alpha(self, step: int, epoch_steps: int) -> float:
        """Return the weight of the momentum model's targets at a step: it rises linearly during the first epoch.

        Args:
            step: The number of the step, from 0.
            epoch_steps: The number of steps of an epoch.
        """
        return self.config.distillation * min(1.0, step / epoch_steps)
