"""Decides which architecture to score next, and who is promoted."""

from nas.search.base import Strategy
from nas.search.ladder import next_training, promotion_order, ranked
from nas.search.strategies import build_strategy

__all__ = ["Strategy", "build_strategy", "next_training", "promotion_order", "ranked"]
