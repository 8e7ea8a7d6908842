"""MATLAB files of both versions give the same arrays, axes in MATLAB's order."""

import io

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse

from cmir.archive.matlab import is_hdf5, read_matrices, read_matrix
from cmir.errors import DataError

CUBE = np.arange(2 * 3 * 4, dtype=np.uint16).reshape(2, 3, 4)


def saved(version: str) -> bytes:
    buffer = io.BytesIO()
    if version == "v5":
        scipy.io.savemat(buffer, {"cube": CUBE, "thin": scipy.sparse.eye(3), "name": "text"})
    else:
        with h5py.File(buffer, "w", userblock_size=512) as file:
            file["cube"] = CUBE.transpose(2, 1, 0)
            file.create_group("more")
    return buffer.getvalue()


@pytest.mark.parametrize("version", ["v5", "v7.3"])
def test_both_versions_give_the_same_array(version: str) -> None:
    data = saved(version)
    assert is_hdf5(data) == (version == "v7.3")
    np.testing.assert_array_equal(read_matrix(data, "cube", "a.mat"), CUBE)


def test_sparse_arrays_are_filled_and_texts_left_out() -> None:
    found = read_matrices(saved("v5"), "a.mat")
    assert sorted(found) == ["cube", "thin"]
    np.testing.assert_array_equal(found["thin"], np.eye(3))


@pytest.mark.parametrize(
    "data", [b"", b"short", b"x" * 600, saved("v7.3")[:700]], ids=["empty", "short", "text", "cut"]
)
def test_what_is_no_matlab_file_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match=r"MATLAB file cannot be read.*a\.mat"):
        read_matrices(data, "a.mat")


def test_a_missing_variable_is_named_with_those_that_are_there() -> None:
    with pytest.raises(DataError, match=r"no such variable in MATLAB file: seen \['cube'\], expected pan"):
        read_matrix(saved("v7.3"), "pan", "a.mat")
