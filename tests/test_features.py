"""Source features: an .npz of vectors and labels becomes rows."""

import os
from pathlib import Path

import numpy as np
import pytest

from cmir.archive.schema import make_item_id
from cmir.archive.sources.features import FeaturesSource
from cmir.archive.speech import decode_features, is_features
from cmir.archive.vocabulary import UCMERCED_LABELS
from cmir.errors import DataError

MATRIX = np.random.default_rng(0).normal(size=(4, 6))


def saved(folder: Path, **arrays: np.ndarray) -> str:
    np.savez(folder / "features.npz", **arrays)
    return str(folder / "features.npz")


def read(uri: str, matrix: str | None = None) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    source = FeaturesSource(uri, matrix)
    rows = [row for item in source.items() for row in source.rows(item)]
    assert all(is_features(row.media) for row in rows)
    return np.stack([decode_features(row.media) for row in rows]), [row.labels for row in rows]


def test_label_numbers_are_places_among_the_17(tmp_path: Path) -> None:
    uri = saved(tmp_path, speech=MATRIX, processed=MATRIX * 2, label=np.array([0, 16, 3, 3]))
    features, labels = read(uri)
    np.testing.assert_allclose(features, MATRIX.astype(np.float32))
    assert labels == [("airplane",), ("water",), ("cars",), ("cars",)]
    np.testing.assert_allclose(read(uri, "processed")[0], 2 * MATRIX, rtol=1e-6)
    assert read(str(tmp_path))[1] == labels


def test_labels_may_be_texts_or_a_table(tmp_path: Path) -> None:
    table = np.zeros((4, len(UCMERCED_LABELS)), np.uint8)
    table[np.arange(4), [1, 2, 3, 4]] = table[:, 16] = 1
    uri = saved(tmp_path, other=MATRIX, labels=np.array(["sea", "sand; sea", "tree house", ""]))
    assert read(uri)[1] == [("sea",), ("sand", "sea"), ("tree house",), ()]
    assert read(saved(tmp_path, X=MATRIX, y=table))[1][0] == ("bare-soil", "water")


def test_ids_name_the_file_and_the_row(tmp_path: Path) -> None:
    source = FeaturesSource(saved(tmp_path, x=MATRIX, y=np.arange(4)))
    items = list(source.items())
    assert len({item.scene_id for item in items}) == 4
    assert next(source.rows(items[2])).item_id == make_item_id("features", "features.npz#2", "speech")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": MATRIX}, "no labels: seen x, expected label or labels or y"),
        ({"label": np.arange(4)}, "no matrix of features"),
        ({"a": MATRIX, "b": MATRIX, "label": np.arange(4)}, "no matrix of features: seen a, b"),
        ({"x": MATRIX, "label": np.arange(3)}, "4 rows of x, 3 labels"),
        ({"x": MATRIX, "label": np.arange(4) + 14}, r"14\.\.17, expected 0\.\.16"),
        ({"x": MATRIX, "label": np.array([0.5, 1, 2, 3])}, "cannot read labels"),
    ],
)
def test_files_without_the_right_arrays_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        list(FeaturesSource(saved(tmp_path, **arrays)).items())


def test_a_vector_with_nan_is_refused_by_itself(tmp_path: Path) -> None:
    matrix = MATRIX.copy()
    matrix[1, 2] = np.nan
    source = FeaturesSource(saved(tmp_path, x=matrix, y=np.arange(4)))
    items = list(source.items())
    assert len(list(source.rows(items[0]))) == 1
    with pytest.raises(DataError, match="NaN"):
        list(source.rows(items[1]))


def test_what_is_no_npz_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="input not found"):
        list(FeaturesSource(str(tmp_path / "none.npz")).items())
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(DataError, match="cannot read features"):
        list(FeaturesSource(str(tmp_path)).items())
    (tmp_path / "b.npz").write_bytes(b"")
    with pytest.raises(DataError, match="which features to read"):
        list(FeaturesSource(str(tmp_path)).items())


def test_damaged_bytes_are_refused(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "a.npz"
    np.savez_compressed(path, x=rng.normal(size=(8, 5)), y=np.arange(8))
    whole, num_refused = np.frombuffer(path.read_bytes(), np.uint8), 0
    for _ in range(100):
        data = whole.copy()
        data[rng.integers(len(data), size=2)] = rng.integers(256, size=2)
        path.write_bytes(data.tobytes())
        try:
            list(FeaturesSource(str(path)).items())
        except DataError:
            num_refused += 1
    assert num_refused > 50


@pytest.mark.realdata
def test_the_features_of_the_paper_are_read() -> None:
    root = os.environ.get("CMIR_REAL_DATA")
    if not root:
        pytest.skip("CMIR_REAL_DATA is not set: the paper's features are not here")
    features, labels = read(str(Path(root, "cmirnet", "speech_features.npz")))
    assert features.shape == (170, 128)
    assert {label: labels.count((label,)) for label in UCMERCED_LABELS} == dict.fromkeys(UCMERCED_LABELS, 10)
