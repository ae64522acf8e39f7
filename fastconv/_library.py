"""Loads the C library: whoever calls C takes `_native` from here.

OpenMP's threads wait for each other, and for the next call, by spinning: GNU's for 300,000 turns of a loop, LLVM's for
200 ms. Where others use the processors too, that is time taken from the very thread waited for. (LeNet-5's training on
two threads, on two Xeon cores with six other processes at work: 2 batches a second, against 18 on one thread; 11 to 16
with 1,000 to 10,000 turns.) They read how patient to be from the environment when they are loaded, which is now. What
the user has set stands.
"""

import os

__all__ = ["_native"]

_PATIENCE = {
    "GOMP_SPINCOUNT": "4000",  # turns
    "KMP_BLOCKTIME": "1",  # milliseconds
}
_added = {} if "OMP_WAIT_POLICY" in os.environ else {k: v for k, v in _PATIENCE.items() if k not in os.environ}

os.environ.update(_added)
try:
    from fastconv import _native
finally:
    for _name in _added:  # child processes get the environment as it was
        del os.environ[_name]
