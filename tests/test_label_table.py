"""Label tables as published and as people write them; every other table is refused."""

import io
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from cmir.archive.label_table import UCMERCED_CLASSES, find_table, plain_name, read_labels
from cmir.archive.vocabulary import UCMERCED_LABELS
from cmir.errors import DataError

HEADER = "image," + ",".join(UCMERCED_LABELS)
FIELD_AND_TREES = ",".join("1" if label in ("field", "trees") else "0" for label in UCMERCED_LABELS)


def read(tmp_path: Path, text: str, name: str = "multilabels.csv") -> dict[str, tuple[str, ...]]:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8-sig"))
    return dict(read_labels(str(path)))


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}\nagricultural00,{FIELD_AND_TREES}\n",
        f"{HEADER}\r\nagricultural00.tif,{FIELD_AND_TREES}\r\n\r\n",
        f"IMAGE\\LABEL,{HEADER[6:].upper().replace('-', ' ')}\nImages/field/Agricultural00.JPG,{FIELD_AND_TREES}",
        f"{HEADER}\nagricultural00,{FIELD_AND_TREES}\n".replace(",", ";"),
        f"{HEADER}\nagricultural00,{FIELD_AND_TREES}\n".replace(",", "\t"),
        f"agricultural00,{FIELD_AND_TREES}\n",
        f"{HEADER}\nagricultural00,{FIELD_AND_TREES.replace('1', '1.0')}\n",
    ],
    ids=["as given", "extension", "other spelling", "semicolons", "tabs", "no header", "floats"],
)
def test_tables_in_use_give_the_same_labels(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == {"agricultural00": ("field", "trees")}


def test_columns_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    names = list(reversed(UCMERCED_LABELS))
    flags = ",".join("1" if name in ("sea", "ship") else "0" for name in names)
    assert read(tmp_path, f"image,{','.join(names)}\nharbor01,{flags}\n") == {"harbor01": ("sea", "ship")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "label table is empty"),
        (HEADER, "label table is empty: seen a header only"),
        (f"{HEADER},cloud\nagricultural00,{FIELD_AND_TREES},0", "other columns: seen 18 columns.*'cloud'"),
        (f"{HEADER[:-6]}\nagricultural00,{FIELD_AND_TREES[:-2]}", r"missing: \['water'\]"),
        (f"{HEADER}\nagricultural00,{FIELD_AND_TREES[:-2]}", "row is not zeros and ones: seen 16 columns.*row 2"),
        (f"{HEADER}\nagricultural00,{FIELD_AND_TREES[:-1]}7", r"values \['7'\]"),
        (f"{HEADER}\nx,{FIELD_AND_TREES}\nx,{FIELD_AND_TREES.replace('1', '0')}", "two rows of labels: seen x"),
    ],
)
def test_tables_that_would_mislead_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "multilabels.csv").write_bytes(b"\xff\xfe\x00\x80\x81")
    with pytest.raises(DataError, match="label table is not text"):
        read_labels(str(tmp_path / "multilabels.csv"))


def published(kind: str) -> tuple[bytes, np.ndarray]:
    """The MATLAB table, 17 x 2100, as either version of the format; and its values."""
    flags = (np.random.default_rng(0).uniform(size=(17, 2100)) < 0.2).astype(np.uint8)
    buffer = io.BytesIO()
    if kind == "v5":
        scipy.io.savemat(buffer, {"labels": flags, "note": np.zeros((2, 3))})
    else:
        with h5py.File(buffer, "w") as file:
            file["labels"] = flags.T  # h5py shows MATLAB's axes reversed
    return buffer.getvalue(), flags


@pytest.mark.parametrize("kind", ["v5", "v7.3"])
def test_the_published_matlab_table_is_read(tmp_path: Path, kind: str) -> None:
    data, flags = published(kind)
    (tmp_path / "LandUse_Multilabeled.mat").write_bytes(data)
    table = read_labels(str(tmp_path / "LandUse_Multilabeled.mat"))
    assert len(table) == 2100
    for image, column in (("agricultural00", 0), ("beach07", 307), ("tenniscourt99", 2099)):
        assert table[image] == tuple(np.array(UCMERCED_LABELS)[flags[:, column] == 1])
    assert len(UCMERCED_CLASSES) == 21
    assert list(UCMERCED_CLASSES) == sorted(UCMERCED_CLASSES)


def test_other_matlab_files_are_refused(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"labels": np.zeros((17, 2000))})
    with pytest.raises(DataError, match=r"no label table.*\(17, 2000\).*expected a 17 x 2100 table"):
        read_labels(str(tmp_path / "a.mat"))
    (tmp_path / "b.mat").write_bytes(b"no matlab at all" * 20)
    with pytest.raises(DataError, match="MATLAB file cannot be read"):
        read_labels(str(tmp_path / "b.mat"))
    (tmp_path / "c.mat").write_bytes(published("v7.3")[0][:600])
    with pytest.raises(DataError, match="MATLAB file cannot be read"):
        read_labels(str(tmp_path / "c.mat"))


def test_the_table_of_a_folder_is_found_by_name_or_alone(tmp_path: Path) -> None:
    assert find_table_name(tmp_path, ["labels.mat"]) == "labels.mat"
    assert find_table_name(tmp_path, ["other.csv", "multilabels.csv"]) == "multilabels.csv"
    (tmp_path / "multilabels.csv").unlink()
    with pytest.raises(DataError, match=r"which label table is meant\?: seen labels.mat, other.csv"):
        find_table(str(tmp_path))


def find_table_name(folder: Path, names: list[str]) -> str:
    for name in names:
        (folder / name).write_text("x")
    found = find_table(str(folder))
    assert found is not None
    return Path(found).name


def test_names_agree_whatever_their_folder_and_extension() -> None:
    assert {plain_name(name) for name in ("beach07", "beach07.tif", "a\\Beach07.PNG", " a/b/beach07.jpg")} == {
        "beach07"
    }
