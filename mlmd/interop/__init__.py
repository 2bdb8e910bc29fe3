"""Ways out: the same potential in OpenMM, LAMMPS and ASE. Units are converted at these doors and nowhere else."""
