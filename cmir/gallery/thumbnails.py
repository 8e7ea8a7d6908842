"""Small WebP previews by item_id: one table for all spaces of a gallery, added to once per item, read by searchers.

Embedding writes a thumbnail before the vectors of its piece become visible, so a reader that opens the table after it
has read the pointer finds every thumbnail that its version can have.
"""

from typing import Final

import lance
import pyarrow as pa
import pyarrow.compute as pc

from cmir.archive import storage
from cmir.archive.schema import THUMBNAIL_SCHEMA
from cmir.errors import GalleryError
from cmir.gallery import commits

TABLE_NAME: Final = "thumbnails"
MAX_BYTES: Final = 4096
_REMEMBERED_IDS: Final = 100_000


def add_thumbnails(gallery_uri: str, thumbnails: pa.Table) -> int:
    """Add thumbnails (THUMBNAIL_SCHEMA) of items that have none yet; returns how many were added.

    Raises GalleryError where the schema is another or a thumbnail is larger than 4 kB.
    """
    if not thumbnails.schema.equals(THUMBNAIL_SCHEMA):
        raise GalleryError("thumbnails of another shape", seen=thumbnails.schema.names, expected="item_id, webp")
    largest = pc.max(pc.binary_length(thumbnails["webp"])).as_py() or 0
    if largest > MAX_BYTES:
        raise GalleryError("thumbnail too large", seen=f"{largest} bytes", expected=f"at most {MAX_BYTES}")
    uri, num_added = table_uri(gallery_uri), 0
    commits.ensure_table(uri, THUMBNAIL_SCHEMA)
    ids = thumbnails["item_id"].to_pylist()

    def choose(dataset: lance.LanceDataset) -> commits.Addition:
        nonlocal num_added
        standing = _found(dataset, ids)
        first = {item_id: i for i, item_id in reversed(list(enumerate(ids))) if item_id not in standing}
        num_added = len(first)
        return commits.Addition(tuple(first), thumbnails.take(pa.array(sorted(first.values()), pa.int64())))

    commits.add_absent(uri, choose)
    return num_added


def table_uri(gallery_uri: str) -> str:
    """Where the thumbnails of a gallery lie."""
    return storage.join(gallery_uri, f"{TABLE_NAME}.lance")


class ThumbnailReader:
    """Thumbnails as they were when this was opened; a gallery without any has an empty one."""

    def __init__(self, gallery_uri: str) -> None:
        uri = table_uri(gallery_uri)
        self._dataset = commits.open_table(uri) if commits.exists_table(uri) else None
        self._known: dict[str, bool] = {}

    def among(self, item_ids: set[str]) -> set[str]:
        """Those of the items that have a thumbnail; what was looked up is remembered."""
        if self._dataset is None:
            return set()
        unknown = sorted(item_id for item_id in item_ids if item_id not in self._known)
        found = _found(self._dataset, unknown)
        answer = found | {item_id for item_id in item_ids if self._known.get(item_id)}
        if len(self._known) > _REMEMBERED_IDS:
            self._known = {}
        self._known.update({item_id: item_id in found for item_id in unknown})
        return answer

    def read(self, item_id: str) -> bytes | None:
        """The WebP bytes of an item's thumbnail, None where it has none."""
        if self._dataset is None:
            return None
        wanted = commits.is_one_of("item_id", [item_id])
        rows = self._dataset.to_table(columns=["webp"], filter=wanted, limit=1).to_pylist()
        return bytes(rows[0]["webp"]) if rows else None


def _found(dataset: lance.LanceDataset, item_ids: list[str]) -> set[str]:
    if not item_ids:
        return set()
    wanted = commits.is_one_of("item_id", item_ids)
    return set(dataset.to_table(columns=["item_id"], filter=wanted)["item_id"].to_pylist())
