"""Potentials: energies as pure functions of a system."""
