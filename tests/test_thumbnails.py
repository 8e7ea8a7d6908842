"""Thumbnails: added once per item, small, and found by readers."""

from pathlib import Path

import pyarrow as pa
import pytest

from cmir.archive.schema import THUMBNAIL_SCHEMA
from cmir.errors import GalleryError
from cmir.gallery import commits
from cmir.gallery.table import Gallery
from cmir.gallery.thumbnails import ThumbnailReader, add_thumbnails


def test_thumbnails_are_added_once(tmp_path: Path) -> None:
    gallery = Gallery.create(str(tmp_path))
    batch = pa.table({"item_id": ["a", "b", "a"], "webp": [b"1", b"2", b"3"]}, schema=THUMBNAIL_SCHEMA)
    assert gallery.add_thumbnails(batch) == 2
    assert gallery.add_thumbnails(batch) == 0
    more = pa.table({"item_id": ["b", "c"], "webp": [b"x", b"4"]}, schema=THUMBNAIL_SCHEMA)
    assert gallery.add_thumbnails(more) == 1
    found = commits.open_table(gallery.table_uri("thumbnails")).to_table().sort_by("item_id").to_pylist()
    assert [(row["item_id"], row["webp"]) for row in found] == [("a", b"1"), ("b", b"2"), ("c", b"4")]


def test_thumbnail_over_four_kilobytes_is_refused(tmp_path: Path) -> None:
    batch = pa.table({"item_id": ["a"], "webp": [b"x" * 4097]}, schema=THUMBNAIL_SCHEMA)
    with pytest.raises(GalleryError, match="4097 bytes"):
        Gallery.create(str(tmp_path)).add_thumbnails(batch)


def test_reader_knows_what_stood_when_it_was_opened(tmp_path: Path) -> None:
    empty = ThumbnailReader(str(tmp_path))
    assert (empty.among({"a"}), empty.read("a")) == (set(), None)
    add_thumbnails(str(tmp_path), pa.table({"item_id": ["a", "it's"], "webp": [b"1", b"2"]}, schema=THUMBNAIL_SCHEMA))
    reader = ThumbnailReader(str(tmp_path))
    assert reader.among({"a", "b"}) == {"a"}
    assert reader.among({"a", "b", "it's"}) == {"a", "it's"}
    assert reader.among(set()) == set()
    assert (reader.read("it's"), reader.read("b")) == (b"2", None)


def test_thumbnails_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="another shape"):
        add_thumbnails(str(tmp_path), pa.table({"item_id": ["a"], "png": [b"1"]}))
    assert not any(tmp_path.iterdir())
