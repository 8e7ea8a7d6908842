"""MATLAB files of all versions give the same arrays, axes in MATLAB's order."""

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
    if version == "v4":
        scipy.io.savemat(buffer, {"table": CUBE[0], "name": "text"}, format="4")
    elif version in ("v5", "v7"):
        named = {"cube": CUBE, "thin": scipy.sparse.eye(3), "name": "text", "inner": {"cube": CUBE}}
        scipy.io.savemat(buffer, named, do_compression=version == "v7")
    else:
        with h5py.File(buffer, "w", userblock_size=512) as file:
            file["cube"] = CUBE.transpose(2, 1, 0)
            file.create_group("more")
    return buffer.getvalue()


@pytest.mark.parametrize("version", ["v5", "v7", "v7.3"])
def test_all_versions_give_the_same_array(version: str) -> None:
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


def damaged(version: str, seed: int) -> bytes:
    data, rng = np.frombuffer(saved(version), np.uint8).copy(), np.random.default_rng(seed)
    data[rng.integers(len(data), size=2)] = rng.integers(256, size=2)
    return data.tobytes()


@pytest.mark.parametrize(("version", "num"), [("v4", 10), ("v7", 10), ("v7.3", 400)])
def test_damaged_bytes_give_arrays_or_are_refused_and_nothing_else(version: str, num: int) -> None:
    num_refused = 0
    for seed in range(num):
        try:
            read_matrices(damaged(version, seed), "a.mat")
        except DataError:
            num_refused += 1
    assert num_refused > num / 10


def test_bytes_that_end_the_process_of_the_reader_are_refused() -> None:
    data = bytearray(saved("v5"))
    data[185] = 228  # the element type of the first array: scipy looks it up without a check
    with pytest.raises(DataError, match=r"MATLAB file cannot be read: seen .+ \(a\.mat\)"):
        read_matrices(bytes(data), "a.mat")


def test_a_variable_may_have_any_name() -> None:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"file": CUBE, "arr_0": CUBE[0]})
    assert sorted(read_matrices(buffer.getvalue(), "a.mat")) == ["arr_0", "file"]


def test_a_sparse_array_that_cannot_be_filled_is_a_damaged_file() -> None:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"thin": scipy.sparse.csc_matrix(np.eye(3))})
    data = bytearray(buffer.getvalue())
    rows = np.frombuffer(bytes(data), np.int32).tolist()
    place = next(i for i in range(len(rows)) if rows[i : i + 3] == [0, 1, 2]) * 4
    data[place : place + 4] = (10**6).to_bytes(4, "little")  # a row far outside of the three
    with pytest.raises(DataError, match="MATLAB file cannot be read"):
        read_matrices(bytes(data), "a.mat")
