"""MATLAB files of either kind -> their numeric arrays, axes in MATLAB's order.

Up to v7 scipy reads them, in a process of its own since damaged bytes can end it (mat_child.py); v7.3 is HDF5, where
h5py shows the axes reversed: they are transposed back here, never reshaped.
"""

import io
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from cmir.archive import mat_child
from cmir.errors import DataError, parsing

_HDF5_MAGIC: Final = b"\x89HDF"
_HEADER_BYTES: Final = 512  # MATLAB writes a text header before the HDF5 part
_UNREADABLE: Final = "MATLAB file cannot be read"
_CRASHES: Final = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)


def read_matrices(data: bytes, where: str, name: str | None = None) -> dict[str, NDArray[Any]]:
    """Every numeric array of a file by its name, or just the one named; sparse ones filled.

    Raises DataError where the file cannot be read, OSError where this machine could not read it.
    """
    found = _of_hdf5(data, where, name) if is_hdf5(data) else _up_to_v7(data, where, name)
    return {key: v for key, v in found.items() if isinstance(v, np.ndarray) and v.ndim >= 2 and v.dtype.kind in "biuf"}


def read_matrix(data: bytes, name: str, where: str) -> NDArray[Any]:
    """One numeric array. Raises DataError where the file has none of that name."""
    found = read_matrices(data, where, name)
    if name not in found:
        seen = sorted(read_matrices(data, where))
        raise DataError("no such variable in MATLAB file", seen=seen, expected=name, where=where)
    return found[name]


def is_hdf5(head: bytes) -> bool:
    """True for the first bytes (516 or more) of an HDF5 file, with or without MATLAB's header."""
    return head[:4] == _HDF5_MAGIC or head[_HEADER_BYTES : _HEADER_BYTES + 4] == _HDF5_MAGIC


@contextmanager
def open_hdf5(file: BinaryIO, where: str) -> Iterator[h5py.File]:
    """A file of v7.3, axes reversed; what h5py raises within the block is a DataError."""
    with parsing(_UNREADABLE, where=where), h5py.File(file, "r") as opened:
        yield opened


def _of_hdf5(data: bytes, where: str, name: str | None) -> dict[str, Any]:
    with open_hdf5(io.BytesIO(data), where) as file:
        wanted = {key: node for key, node in file.items() if isinstance(node, h5py.Dataset) and name in (None, key)}
        return {key: np.asarray(node).T for key, node in wanted.items()}


def _up_to_v7(data: bytes, where: str, name: str | None) -> dict[str, Any]:
    command = [sys.executable, "-P", mat_child.__file__, *([name] if name else [])]
    child = subprocess.run(command, input=data, capture_output=True, check=False)
    if child.returncode == mat_child.DAMAGED or -child.returncode in _CRASHES:
        said = child.stderr.decode(errors="replace").strip().splitlines()
        seen = said[-1] if child.returncode == mat_child.DAMAGED else f"its reader ended by signal {-child.returncode}"
        raise DataError(_UNREADABLE, seen=seen, where=where)
    if child.returncode:
        said_all = child.stderr.decode(errors="replace")[-500:]
        raise OSError(f"the reader of {where} failed with exit {child.returncode}: {said_all}")
    with np.load(io.BytesIO(child.stdout)) as file:
        names, *arrays = file.values()
    return dict(zip(names.tolist(), arrays, strict=True))
