"""One profile for every property: the same examples each time, so that a run says the same on every machine.

Tests run side by side, one process a core, so each computes in one thread: libraries that spread over all cores in every
process spend their time waiting for each other.
"""

import os

from hypothesis import settings

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
