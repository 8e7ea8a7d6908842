"""MATLAB files of either kind -> their numeric arrays, axes in MATLAB's order.

Up to v7 scipy reads them; v7.3 is HDF5, where h5py shows the axes reversed: they are transposed back here, never
reshaped.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray

from cmir.errors import DataError

_HDF5_MAGIC: Final = b"\x89HDF"
_HEADER_BYTES: Final = 512  # MATLAB writes a text header before the HDF5 part


def read_matrices(data: bytes, where: str) -> dict[str, NDArray[Any]]:
    """Every numeric array of a file by its name; sparse ones filled. Raises DataError where it cannot be read."""
    with reading_matlab(where):
        if is_hdf5(data):
            with h5py.File(io.BytesIO(data), "r") as file:
                found = {name: np.asarray(node).T for name, node in file.items() if isinstance(node, h5py.Dataset)}
        else:
            found = scipy.io.loadmat(io.BytesIO(data))
    dense = {name: v.toarray() if hasattr(v, "toarray") else v for name, v in found.items()}
    return {
        name: v for name, v in dense.items() if isinstance(v, np.ndarray) and v.ndim >= 2 and v.dtype.kind in "biuf"
    }


def read_matrix(data: bytes, name: str, where: str) -> NDArray[Any]:
    """One numeric array. Raises DataError where the file has none of that name."""
    found = read_matrices(data, where)
    if name not in found:
        raise DataError("no such variable in MATLAB file", seen=sorted(found), expected=name, where=where)
    return found[name]


def is_hdf5(head: bytes) -> bool:
    """True for the first bytes (516 or more) of an HDF5 file, with or without MATLAB's header."""
    return head[:4] == _HDF5_MAGIC or head[_HEADER_BYTES : _HEADER_BYTES + 4] == _HDF5_MAGIC


@contextmanager
def reading_matlab(where: str) -> Iterator[None]:
    """The errors of both readers as DataError."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError, scipy.io.matlab.MatReadError) as error:
        raise DataError("MATLAB file cannot be read", seen=f"{type(error).__name__}: {error}", where=where) from error
