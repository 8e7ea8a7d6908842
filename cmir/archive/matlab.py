"""MATLAB files of either kind -> their numeric arrays, axes in MATLAB's order.

Up to v7 scipy reads them, in a process of its own since damaged bytes can end it (mat_child.py); v7.3 is HDF5, where
h5py shows the axes reversed: they are transposed back here, never reshaped.
"""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from cmir.errors import DataError, parsing

_HDF5_MAGIC: Final = b"\x89HDF"
_HEADER_BYTES: Final = 512  # MATLAB writes a text header before the HDF5 part
_CHILD: Final = Path(__file__).with_name("mat_child.py")


def read_matrices(data: bytes, where: str) -> dict[str, NDArray[Any]]:
    """Every numeric array of a file by its name; sparse ones filled. Raises DataError where it cannot be read."""
    found = _of_hdf5(data, where) if is_hdf5(data) else _up_to_v7(data, where)
    return {
        name: v for name, v in found.items() if isinstance(v, np.ndarray) and v.ndim >= 2 and v.dtype.kind in "biuf"
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


def _of_hdf5(data: bytes, where: str) -> dict[str, Any]:
    with parsing("MATLAB file cannot be read", where=where), h5py.File(io.BytesIO(data), "r") as file:
        return {name: np.asarray(node).T for name, node in file.items() if isinstance(node, h5py.Dataset)}


def _up_to_v7(data: bytes, where: str) -> dict[str, Any]:
    child = subprocess.run([sys.executable, "-P", str(_CHILD)], input=data, capture_output=True, check=False)
    if child.returncode:
        said = child.stderr.decode(errors="replace").strip().splitlines()
        seen = f"reader ended by signal {-child.returncode}" if child.returncode < 0 or not said else said[-1]
        raise DataError("MATLAB file cannot be read", seen=seen, where=where)
    with np.load(io.BytesIO(child.stdout)) as file:
        names, *arrays = file.values()
    return dict(zip(names.tolist(), arrays, strict=True))
