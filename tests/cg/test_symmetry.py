"""Beads that a symmetry of the molecule exchanges share a type, and no others do."""

import pytest

from mlmd import datasets
from mlmd.cg import mapping
from mlmd.cg.symmetry import with_equivalent_types
from mlmd.datasets import alkanes, trappe


def types(source, groups, **options):
    return with_equivalent_types(mapping.by_groups(source, groups, **options), source).types.tolist()


def test_the_two_halves_of_ethane_are_alike():
    top = alkanes.topology(2, 3)
    m = with_equivalent_types(mapping.by_groups(top, [[0, 1, 2, 3], [4, 5, 6, 7]]), top)
    assert (m.types.tolist(), m.n_molecules) == ([0, 0], 3)


def test_beads_of_a_chain_are_alike_with_their_mirror_images():
    top = trappe.topology(24, 2)
    for size, expected in ((2, [0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0]), (3, [0, 1, 2, 3, 3, 2, 1, 0])):
        assert types(top, [list(range(k, k + size)) for k in range(0, 24, size)]) == expected


def test_unequal_halves_and_other_atoms_are_told_apart():
    assert types(trappe.topology(6), [[0, 1], [2, 3, 4, 5]]) == [0, 1]
    propane = alkanes.topology(3)
    assert types(propane, [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9, 10]]) == [0, 1, 0]
    assert types(propane, [[0, 1, 2, 3, 4, 5, 6], [7, 8, 9, 10]]) == [0, 1]


def test_weights_count_too():
    one = mapping.by_groups(alkanes.topology(2), [[0, 1, 2, 3], [4, 5, 6, 7]])
    uneven = one.weights.clone()
    uneven[0, :4] = 0.25
    other = mapping.Mapping(uneven, one.force_weights, one.atom_masses, one.names, one.types, one.bonds, one.atom_bonds)
    assert with_equivalent_types(other, alkanes.topology(2)).types.tolist() == [0, 1]


def test_a_source_of_another_size_is_refused():
    with pytest.raises(ValueError, match="its molecules have 11 atoms, the mapping 8"):
        with_equivalent_types(mapping.molecule(alkanes.topology(2)), alkanes.topology(3))


def test_beads_that_only_their_surroundings_tell_apart_share_a_type_within_reach():
    melt = datasets.load("tetracosane")[:1]
    chain = mapping.sequence(melt, 8)
    found = [with_equivalent_types(chain, melt, reach).types.tolist() for reach in (0, 2, None)]
    assert found == [[0, 1, 1, 1, 1, 1, 1, 0], [0, 1, 2, 2, 2, 2, 1, 0], [0, 1, 2, 3, 3, 2, 1, 0]]
    with pytest.raises(ValueError, match="reach=-1"):
        with_equivalent_types(chain, melt, -1)
