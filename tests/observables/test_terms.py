"""Bonds, angles and dihedrals of a graph are found, each once."""

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmd.observables import internal_terms


def test_a_chain_has_one_angle_fewer_than_bonds_and_one_dihedral_fewer_than_angles() -> None:
    t = internal_terms(5, [(1, 0), (1, 2), (3, 2), (3, 4), (0, 1)])
    assert t.bonds.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert t.angles.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert t.dihedrals.tolist() == [[0, 1, 2, 3], [1, 2, 3, 4]]


def test_rings_give_each_term_once() -> None:
    three = internal_terms(3, [(0, 1), (1, 2), (2, 0)])
    assert (len(three.bonds), len(three.angles), len(three.dihedrals)) == (3, 3, 0)
    six = internal_terms(6, [(i, (i + 1) % 6) for i in range(6)])
    assert (len(six.bonds), len(six.angles), len(six.dihedrals)) == (6, 6, 6)


@given(st.integers(2, 7), st.data())
@settings(max_examples=30, deadline=None)
def test_terms_are_all_simple_paths_of_the_graph(n: int, data) -> None:
    pairs = [(i, j) for i in range(n) for j in range(i)]
    bonds = data.draw(st.lists(st.sampled_from(pairs), max_size=10))
    graph = nx.Graph(bonds)
    graph.add_nodes_from(range(n))

    def paths(length: int) -> set[frozenset]:
        found = set()
        for i in graph:
            for j in graph:
                for p in nx.all_simple_paths(graph, i, j, cutoff=length):
                    if len(p) == length + 1:
                        found.add(min(tuple(p), tuple(reversed(p))))
        return found

    t = internal_terms(n, bonds)
    for rows, length in ((t.bonds, 1), (t.angles, 2), (t.dihedrals, 3)):
        listed = [min(tuple(r), tuple(reversed(r))) for r in rows.tolist()]
        assert len(set(listed)) == len(listed)
        assert set(listed) == paths(length)


@pytest.mark.parametrize("bond", [(0, 0), (0, 3), (-1, 1)])
def test_an_impossible_bond_is_refused(bond: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="bonds"):
        internal_terms(3, [bond])
