"""Speech features computed elsewhere (an .npz with a matrix and labels) -> speech rows, raw f32[F] without sample rate.

Which arrays of the file are read:
- labels: the first there is of `label`, `labels`, `y`. Whole numbers are places among the 17 labels of UC Merced,
  counted from 0; texts are labels, several of one row separated by `;`; a table (N,17) of 0 and 1 names several.
- features: the array that `matrix` names, else the first there is of `features`, `speech`, `X`, `x`, else the only
  other one of numbers (N,F).
Every row is a group by itself, since the file does not say who spoke.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cmir.archive import storage
from cmir.archive.schema import Media, ShardRow, make_group_id, make_item_id
from cmir.archive.sources import Item
from cmir.archive.speech import decode_features
from cmir.archive.vocabulary import UCMERCED_LABELS
from cmir.errors import DataError, parsing

LABEL_KEYS: Final = ("label", "labels", "y")
MATRIX_KEYS: Final = ("features", "speech", "X", "x")


@dataclass(frozen=True)
class FeaturesSource:
    """Source `features`; `input_uri` is the .npz or a folder that holds one; `matrix` names its array of features."""

    input_uri: str
    matrix: str | None = None

    def items(self) -> Iterator[Item]:
        """One item per row, its vector with it. Raises DataError: no such file, no such arrays, labels out of range."""
        uri = self._file_uri()
        arrays = _arrays(uri)
        label_key = next((key for key in LABEL_KEYS if key in arrays), None)
        if label_key is None:
            raise DataError("no labels", seen=", ".join(arrays), expected=" or ".join(LABEL_KEYS), where=uri)
        labels = _labels(arrays.pop(label_key), f"{uri}:{label_key}")
        features = self._features(arrays, len(labels), uri)
        for index, (row, row_labels) in enumerate(zip(features, labels, strict=True)):
            key = f"{storage.name_of(uri)}#{index}"
            yield Item(
                key=key,
                scene_id=make_group_id("utterance", key),
                num_bytes=row.nbytes,
                population="speech",
                source_uri=uri,
                detail={"features": row.tobytes(), "labels": row_labels},
            )

    def rows(self, item: Item) -> Iterator[ShardRow]:
        """The feature vector. Raises DataError where it holds NaN or infinite values."""
        data: bytes = item.detail["features"]
        media = Media(modality="speech", data=data, encoding="raw", dtype="float32", shape=(len(data) // 4,))
        decode_features(media)
        yield ShardRow(
            item_id=make_item_id("features", item.key, "speech"),
            media=media,
            scene_id=item.scene_id,
            source_uri=item.source_uri,
            labels=item.detail["labels"],
        )

    def _file_uri(self) -> str:
        files = [file.uri for file in storage.list_files(self.input_uri) if file.uri.endswith(".npz")]
        if len(files) != 1:
            expected = "one .npz file" if not files else "one .npz file: name it"
            raise DataError("which features to read?", seen=f"{len(files)}", expected=expected, where=self.input_uri)
        return files[0]

    def _features(self, arrays: dict[str, npt.NDArray[Any]], num_rows: int, uri: str) -> npt.NDArray[np.float32]:
        fitting = {
            key: array for key, array in arrays.items() if array.ndim == 2 and array.dtype.kind in "fiu" and array.size
        }
        named = (self.matrix,) if self.matrix else MATRIX_KEYS
        key = next((name for name in named if name in fitting), None)
        if key is None and not self.matrix and len(fitting) == 1:
            key = next(iter(fitting))
        if key is None:
            raise DataError("no matrix of features", seen=", ".join(arrays), expected=" or ".join(named), where=uri)
        if len(fitting[key]) != num_rows:
            seen = f"{len(fitting[key])} rows of {key}, {num_rows} labels"
            raise DataError("features and labels differ in number", seen=seen, expected="as many", where=uri)
        return np.ascontiguousarray(fitting[key], dtype="<f4")


def _arrays(uri: str) -> dict[str, npt.NDArray[Any]]:
    data = storage.read_bytes(uri)
    with parsing("cannot read features", where=uri, expected="an .npz of arrays"), np.load(io.BytesIO(data)) as file:
        return dict(file)


def _labels(array: npt.NDArray[Any], where: str) -> list[tuple[str, ...]]:
    num_labels = len(UCMERCED_LABELS)
    if array.ndim == 2 and array.shape[1] == num_labels and np.isin(array, (0, 1)).all():
        return [tuple(UCMERCED_LABELS[i] for i in np.flatnonzero(row)) for row in array]
    flat = array.reshape(-1) if array.ndim == 2 and 1 in array.shape else array
    if flat.ndim == 1 and flat.dtype.kind in "US":
        texts = [text.decode() if isinstance(text, bytes) else str(text) for text in flat.tolist()]
        return [tuple(part.strip() for part in text.split(";") if part.strip()) for text in texts]
    if flat.ndim != 1 or flat.dtype.kind not in "iuf" or (flat % 1 != 0).any():
        seen = f"{array.dtype} {array.shape}"
        raise DataError("cannot read labels", seen=seen, expected="(N,) of numbers or texts, or (N,17)", where=where)
    if flat.size and not 0 <= flat.min() <= flat.max() < num_labels:
        seen, expected = f"{flat.min()}..{flat.max()}", f"0..{num_labels - 1}"
        raise DataError("label numbers out of range", seen=seen, expected=expected, where=where)
    return [(UCMERCED_LABELS[int(i)],) for i in flat]
