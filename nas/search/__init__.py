"""Decides which architecture to score next, and who is promoted."""

from nas.search.base import Strategy
from nas.search.choice import build_strategy
from nas.search.ladder import Ladder

__all__ = ["Ladder", "Strategy", "build_strategy"]
