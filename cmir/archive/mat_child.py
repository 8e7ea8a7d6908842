"""A process of its own that reads a MATLAB file of up to v7: bytes on stdin -> npz on stdout, or exit DAMAGED.

The npz holds the names of the numeric arrays (of all, or of those named as arguments), then these in turn. scipy's
reader does not check the element types of a file: a wrong byte there can end the process that reads it, which must not
be a worker with other files at hand. Run by path, so it imports nothing of this package.
"""

import io
import sys

import numpy as np
import scipy.io

DAMAGED = 65  # EX_DATAERR of sysexits.h: any other failure is this machine's, not the file's


def main() -> None:
    data = io.BytesIO(sys.stdin.buffer.read())
    try:
        found = scipy.io.loadmat(data, variable_names=sys.argv[1:] or None)
        dense = {name: v.toarray() if hasattr(v, "toarray") else v for name, v in found.items()}
    except Exception as error:  # the border to a parser, which does not say what it raises
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(DAMAGED)
    numeric = {name: v for name, v in dense.items() if isinstance(v, np.ndarray) and v.dtype.kind in "biuf"}
    np.savez(sys.stdout.buffer, np.array(list(numeric), dtype=np.str_), *numeric.values())


if __name__ == "__main__":
    main()
