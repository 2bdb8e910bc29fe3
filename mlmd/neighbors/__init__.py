"""Neighbour lists."""

from mlmd.neighbors.pairs import Pairs
from mlmd.neighbors.search import dense_pairs, neighbors, vesin_pairs

__all__ = ["Pairs", "dense_pairs", "neighbors", "vesin_pairs"]
