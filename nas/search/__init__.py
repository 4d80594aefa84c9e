"""Decides which architecture to score next, and who is promoted."""

from nas.search.base import Strategy
from nas.search.ladder import Ladder, ranked
from nas.search.strategies import build_strategy

__all__ = ["Ladder", "Strategy", "build_strategy", "ranked"]
