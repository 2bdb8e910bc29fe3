"""Neural potentials."""
