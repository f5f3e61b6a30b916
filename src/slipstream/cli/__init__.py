"""The command line: read arguments, call one function, print."""

import os

# Before the first import of NumPy, and for the processes that a command starts: BLAS threads wait by spinning
# (cluster/threads.py). A variable that is set already stands.
for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from slipstream.cli.app import main  # noqa: E402 - after the variables

__all__ = ["main"]
