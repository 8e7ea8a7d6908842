"""A process of its own that reads a MATLAB file of up to v7: bytes on stdin -> npz on stdout.

The npz holds the names of the numeric arrays, then these in turn. scipy's reader does not check the element types of a
file: a wrong byte there can end the process that reads it, which must not be a worker with other files at hand. Run by
path, so it imports nothing of this package.
"""

import io
import sys

import numpy as np
import scipy.io


def main() -> None:
    found = scipy.io.loadmat(io.BytesIO(sys.stdin.buffer.read()))
    dense = {name: v.toarray() if hasattr(v, "toarray") else v for name, v in found.items()}
    numeric = {name: v for name, v in dense.items() if isinstance(v, np.ndarray) and v.dtype.kind in "biuf"}
    np.savez(sys.stdout.buffer, np.array(list(numeric), dtype=np.str_), *numeric.values())


if __name__ == "__main__":
    main()
