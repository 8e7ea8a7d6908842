"""Test items become files as a user holds them, are asked over HTTP, and the answers become tables and a page.

The files are what a query is in the world: a PNG or GeoTIFF chip, a WAV recording; of the archive only the test split
is asked, which the network has not seen.
"""

import base64
import hashlib
import io
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

import jinja2
import numpy as np
from PIL import Image
from rich.table import Table

from cmir.archive import shards, storage
from cmir.archive.imagery import Chip, decode_chip
from cmir.archive.schema import Media, Modality
from cmir.archive.speech import SAMPLE_RATE_HZ, decode_speech
from cmir.client import Answer, Client, ClientHit
from cmir.errors import DataError
from cmir.evaluation.pictures import picture_of
from cmir.evaluation.report import Report

DIRECTIONS: Final[tuple[tuple[Modality, Modality], ...]] = (
    ("pan", "ms"),
    ("speech", "rgb"),
    ("rgb", "speech"),
    ("ms", "pan"),
)
NUM_HITS: Final = 8


@dataclass(frozen=True)
class LiveQuery:
    """A test item to ask by: `media` as the archive holds it, `file` as a user sends it."""

    media: Media
    target: Modality
    labels: tuple[str, ...]
    item_id: str

    @property
    def title(self) -> str:
        names = {"pan": "PAN", "ms": "MS", "rgb": "RGB", "speech": "speech"}
        return f"{names[self.media.modality]} → {names[self.target]}"


@dataclass(frozen=True)
class LiveAnswer:
    """A query with what the service said, and pictures (WebP) of the hits that have one, by item_id."""

    query: LiveQuery
    answer: Answer
    pictures: Mapping[str, bytes]

    @property
    def heard(self) -> str:
        """What the service heard in the query; empty where it was no recording."""
        return "; ".join(heard.summary for heard in self.answer.heard)

    def is_relevant(self, hit: ClientHit) -> bool:
        """As the evaluation judges: all spoken labels for speech, a label in common between images."""
        asked, found = set(self.query.labels), set(hit.labels)
        if self.query.media.modality == "speech":
            return asked <= found
        return bool(asked & found) and (hit.modality != "speech" or found <= asked)


def choose_queries(shard_uris: Sequence[str]) -> list[LiveQuery]:
    """One query per direction from the test split: of the labelled items the first in the order of their hashes.

    Raises DataError where a modality has no labelled test item.
    """
    return [_choose(shard_uris, modality, target) for modality, target in DIRECTIONS]


def ask(client: Client, query: LiveQuery, k: int = NUM_HITS) -> LiveAnswer:
    """Send a query's file and fetch pictures of its hits."""
    media = query.media
    if media.modality == "speech":
        answer = client.search_speech(wav_file(media), target=[query.target], k=k)
    else:
        answer = client.search_image(
            image_file(decode_chip(media)),
            modality=media.modality,
            sensor=media.sensor,
            gsd_m=media.gsd_m,
            target=[query.target],
            k=k,
        )
    pictures = {hit.item_id: client.thumbnail(hit.item_id) for hit in answer.hits if hit.thumbnail}
    return LiveAnswer(query, answer, pictures)


def image_file(chip: Chip) -> bytes:
    """A chip as a file: PNG for one or three 8-bit bands, else a GeoTIFF with named bands."""
    if chip.pixels.dtype == np.uint8 and chip.pixels.shape[0] in (1, 3):
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(chip.pixels.transpose(1, 2, 0)).squeeze()).save(buffer, "PNG")
        return buffer.getvalue()
    import warnings

    import rasterio
    from rasterio.io import MemoryFile

    num_bands, height, width = chip.pixels.shape
    with MemoryFile() as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        profile = {"driver": "GTiff", "count": num_bands, "height": height, "width": width, "dtype": chip.pixels.dtype}
        with memory.open(**profile) as dataset:
            dataset.write(chip.pixels)
            for i, band in enumerate(chip.bands, 1):
                dataset.set_band_description(i, band)
        return bytes(memory.read())


def wav_file(media: Media) -> bytes:
    """An utterance as a 16-bit mono WAV file at 16 kHz."""
    samples = np.clip(np.round(decode_speech(media) * 32768), -32768, 32767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(SAMPLE_RATE_HZ)
        sound.writeframes(samples.tobytes())
    return buffer.getvalue()


def hits_table(answered: LiveAnswer) -> Table:
    """The hits of one answer for a terminal."""
    total_ms = answered.answer.timings_ms.get("total", float("nan"))
    title = f"{answered.query.title}: asked by {', '.join(answered.query.labels)} ({total_ms:.0f} ms)"
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in ("rank", "score", "", "labels", "class"):
        table.add_column(name, justify="right" if name in ("rank", "score") else "left")
    for hit in answered.answer.hits:
        mark = "[green]hit[/green]" if answered.is_relevant(hit) else "[red]miss[/red]"
        table.add_row(
            str(hit.rank), f"{hit.score:.3f}", mark, ", ".join(hit.labels) or "no label", hit.scene_class or ""
        )
    if answered.answer.heard:
        table.caption = answered.heard
    return table


def write_live_report(
    path: Path, answers: Sequence[LiveAnswer], reports: Mapping[str, Report], timings_s: Mapping[str, float]
) -> None:
    """One self-contained page: the queries asked over HTTP with their hits, the figures, the seconds of each step.

    `reports` are keyed by the page that holds their details, relative to this one.
    """
    folder = files("cmir.evaluation") / "templates"
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["webp"] = _data_uri
    page = environment.from_string((folder / "live.html").read_text()).render(
        css=(folder / "report.css").read_text(),
        answers=answers,
        asked={answered.query.item_id: picture_of(answered.query.media) for answered in answers},
        sounds={a.query.item_id: _sound_uri(a.query.media) for a in answers if a.query.media.modality == "speech"},
        reports=reports,
        timings_s=timings_s,
    )
    storage.put_atomic(str(path), page.encode())


def _choose(shard_uris: Sequence[str], modality: Modality, target: Modality) -> LiveQuery:
    best: tuple[str, LiveQuery] | None = None
    for piece in (p for s in shards.list_shards(shard_uris, modalities=[modality], splits=["test"])
                  for p in shards.pieces(s)):  # fmt: skip
        described = shards.read_piece(piece, ["item_id", "labels"]).to_pylist()
        for i, row in enumerate(described):
            order = hashlib.sha256(row["item_id"].encode()).hexdigest()
            fits = row["labels"] and (modality != "speech" or len(row["labels"]) == 1)
            if fits and (best is None or order < best[0]):
                media = shards.media_of(shards.read_piece(piece), i)
                best = order, LiveQuery(media, target, tuple(row["labels"]), row["item_id"])
    if best is None:
        where = ", ".join(shard_uris)
        raise DataError("nothing to ask by", seen=f"no labelled {modality} item in the test split", where=where)
    return best[1]


def _data_uri(picture: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(picture).decode()


def _sound_uri(media: Media) -> str:
    return "data:audio/wav;base64," + base64.b64encode(wav_file(media)).decode()
