"""Recordings of spoken labels -> speech rows: manifest.csv (path, labels, speaker) or a folder <label>/<speaker>_<n>.*

All recordings of one speaker stand in one split. A recording keeps its own bytes where the shard format names their
encoding (wav, flac, ogg, mp3), so that its vector is the one it gets as a query; others (webm, mp4) become samples.
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cmir.archive import storage
from cmir.archive.schema import ShardRow, make_group_id, make_item_id
from cmir.archive.sources import Item
from cmir.archive.sources.manifest import is_manifest, read_manifest
from cmir.archive.speech import file_media
from cmir.errors import DataError

SUFFIXES: Final = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".webm", ".mp4", ".m4a", ".aac")
_TYPICAL_BYTES: Final = 64_000  # a manifest is not checked file by file: 2 s of 16-bit samples at 16 kHz


@dataclass(frozen=True)
class SpeechSource:
    """Source `speech`; `input_uri` is a manifest, the folder that holds one, or a folder of label folders."""

    input_uri: str

    def items(self) -> Iterator[Item]:
        """One item per recording. Raises DataError where there is no table and no recording in a label folder."""
        return self._manifest_items() if is_manifest(self.input_uri) else self._folder_items()

    def rows(self, item: Item) -> Iterator[ShardRow]:
        """The recording. Raises DataError where it is missing, cut short, empty, too long or not audio."""
        try:
            media = file_media(storage.read_bytes(item.source_uri))
        except DataError as error:
            raise error.at(item.source_uri) from error
        yield ShardRow(
            item_id=make_item_id("speech", item.key, "speech"),
            media=dataclasses.replace(media, sensor=None),
            scene_id=item.scene_id,
            source_uri=item.source_uri,
            labels=item.detail["labels"],
            attributes=json.dumps({"speaker": item.detail["speaker"]}) if item.detail["speaker"] else None,
        )

    def _manifest_items(self) -> Iterator[Item]:
        manifest = read_manifest(self.input_uri, ("path", "labels"))
        for row, name in zip(manifest.rows, manifest.own_names("path"), strict=True):
            labels = tuple(dict.fromkeys(label.strip() for label in row.cells["labels"].split(";") if label.strip()))
            uri = manifest.resolve(row.cells["path"])
            yield _item(name, uri, _TYPICAL_BYTES, labels, row.cells.get("speaker", ""))

    def _folder_items(self) -> Iterator[Item]:
        num_found = 0
        for file in storage.list_files(self.input_uri):
            name = file.uri[len(self.input_uri.rstrip("/")) + 1 :]
            label, _, stem = name.removesuffix(_suffix(name)).rpartition("/")
            if not label or not name.lower().endswith(SUFFIXES):
                continue
            num_found += 1
            yield _item(name, file.uri, file.num_bytes, (label.rpartition("/")[2],), _speaker(stem))
        if not num_found:
            raise DataError(
                "no recordings found",
                seen="no audio file in a label's folder",
                expected="manifest.csv, or <label>/<speaker>_<n>.wav (flac, ogg, mp3, webm, mp4)",
                where=self.input_uri,
            )


def _item(name: str, uri: str, num_bytes: int, labels: tuple[str, ...], speaker: str) -> Item:
    """A recording; one without a named speaker is a group by itself."""
    return Item(
        key=name,
        scene_id=make_group_id("speaker", speaker or name),
        num_bytes=num_bytes,
        population="speech",
        source_uri=uri,
        detail={"labels": labels, "speaker": speaker},
    )


def _speaker(stem: str) -> str:
    """The speaker of a file's stem: what stands before the last underscore, else the whole stem.

    >>> _speaker("anna_maria_12"), _speaker("jackson")
    ('anna_maria', 'jackson')
    """
    before, underscore, number = stem.rpartition("_")
    return before if underscore and before and number.isdigit() else stem


def _suffix(name: str) -> str:
    _, dot, ending = name.rpartition("/")[2].rpartition(".")
    return dot + ending if dot else ""
