"""Coarse-grain, learn, simulate and look: machine-learned molecular dynamics.

The way of the data, which is also the order of the modules: ``datasets`` or ``io`` -> ``cg.mapping`` -> ``cg.priors`` and
``cg.force_matching`` -> ``md`` -> ``analysis``. ``cg.study.Study`` walks it from end to end.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("mlmd")
except PackageNotFoundError:  # used from a source tree that was never installed
    __version__ = "0+unknown"
