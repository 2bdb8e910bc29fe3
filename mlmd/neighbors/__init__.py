"""Neighbour lists."""

from mlmd.neighbors.cells import cell_pairs
from mlmd.neighbors.grid import grid_pairs
from mlmd.neighbors.kept import KeptLists
from mlmd.neighbors.pairs import Pairs
from mlmd.neighbors.search import dense_pairs, neighbors, vesin_pairs

__all__ = ["KeptLists", "Pairs", "cell_pairs", "dense_pairs", "grid_pairs", "neighbors", "vesin_pairs"]
