"""Decides which architecture to score next, and who is promoted."""

from nas.search.base import Strategy
from nas.search.ladder import finalists, next_training, ranked
from nas.search.strategies import build_strategy

__all__ = ["Strategy", "build_strategy", "finalists", "next_training", "ranked"]
