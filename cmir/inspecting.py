"""What lies at a URI, whether an archive's rows can all be read, what a gallery holds, what this machine has."""

import importlib
import importlib.metadata
import platform
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from cmir.archive import festival, shards, storage
from cmir.archive.imagery import decode_chip
from cmir.archive.object_store import S3Settings
from cmir.archive.pico import pico_is_installed
from cmir.archive.schema import IMAGE_MODALITIES, Media
from cmir.archive.speech import decode_features, decode_speech
from cmir.archive.voices import flite_is_installed
from cmir.errors import CmirError, ConfigError, DataError
from cmir.gallery.commits import open_table
from cmir.gallery.publish import find_pointer, read_pointer
from cmir.gallery.table import Gallery
from cmir.network.bundle import CONFIG_FILE, read_config, read_metrics
from cmir.network.sphinx_ear import pocketsphinx_is_installed

_MAX_PROBLEMS: Final = 100
_PACKAGES: Final = (
    "ray",
    "torch",
    "torchaudio",
    "pyarrow",
    "lancedb",
    "pylance",
    "s3fs",
    "rasterio",
    "soundfile",
    "av",
)


def describe(uri: str) -> dict[str, Any]:
    """What a bundle, a gallery or an archive is and holds. Raises DataError where the URI is none of them."""
    if storage.exists(storage.join(uri, CONFIG_FILE)):
        return _describe_bundle(uri)
    if storage.exists(storage.join(uri, "_spaces")):
        return _describe_gallery(uri)
    found = shards.list_shards(uri)
    rows: Counter[str] = Counter()
    for shard in found:
        rows[f"{shard.modality}/{shard.split}"] += shard.num_rows
    num_pieces = sum(len(shard.row_groups) for shard in found)
    counts = {"shards": len(found), "pieces": num_pieces, "num_rows": sum(rows.values())}
    return {"kind": "archive", "uri": uri, **counts, "rows": dict(sorted(rows.items()))}


def _describe_bundle(uri: str) -> dict[str, Any]:
    config = read_config(uri)
    network = config.network
    known = {"space_id": config.space_id, "dim": network.dim, "modalities": list(network.modalities)}
    return {"kind": "bundle", "uri": uri, **known, "labels": list(network.labels), "metrics": dict(read_metrics(uri))}


def _describe_gallery(uri: str) -> dict[str, Any]:
    gallery = Gallery.open(uri)
    rows = {space_id: gallery.space(space_id).count_rows() for space_id in gallery.space_ids()}
    pointer = find_pointer(uri)
    published = pointer.model_dump(mode="json", exclude={"previous"}) if pointer else "nothing"
    return {"kind": "gallery", "uri": uri, "rows_per_space": rows, "published": published}


@dataclass
class Validation:
    """The outcome of reading every row: `problems` names the first 100."""

    num_shards: int = 0
    num_rows: int = 0
    num_bad: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, problem: str, num_rows: int = 1) -> None:
        self.num_bad += num_rows
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(problem)


def validate_shards(uris: Sequence[str]) -> Validation:
    """Read and decode every row of the shards below the URIs; ids must be unique in all of them together.

    Raises DataError where a URI holds no shard at all.
    """
    outcome, broken = Validation(), list[tuple[str, DataError]]()
    found = shards.list_shards(list(uris), broken=broken)
    for _, error in broken:
        outcome.add(str(error))
    outcome.num_shards = len(found) + len(broken)
    seen: set[str] = set()
    for piece in (piece for shard in found for piece in shards.pieces(shard)):
        outcome.num_rows += piece.num_rows
        try:
            table = shards.read_piece(piece)
        except DataError as error:
            outcome.add(str(error), piece.num_rows)
            continue
        for item_id, media in zip(table["item_id"].to_pylist(), shards.medias(table), strict=True):
            problem = _problem_of(media) or ("stands twice" if item_id in seen else None)
            seen.add(item_id)
            if problem:
                outcome.add(f"{piece.shard_uri}: {item_id}: {problem}")
    return outcome


def _problem_of(media: Media) -> str | None:
    try:
        if media.modality in IMAGE_MODALITIES:
            decode_chip(media)
        elif media.sample_rate_hz is None and media.encoding == "raw":
            decode_features(media)
        else:
            decode_speech(media)
    except DataError as error:
        return str(error)
    return None


def export_gallery(gallery_uri: str, output_uri: str, space_id: str | None = None) -> int:
    """Write a space's rows, vectors included, to one GeoParquet file, whole or not at all; returns how many.

    The published version without `space_id`, else the newest of that space. Raises GalleryError where there is none,
    ConfigError where something stands at the output, OSError where that cannot be written.
    """
    if storage.exists(output_uri):
        raise ConfigError("output exists", seen=output_uri, expected="nothing there yet", fix="choose another --output")
    if space_id:
        dataset = Gallery.open(gallery_uri).space(space_id).dataset()
    else:
        pointer = read_pointer(gallery_uri)
        dataset = open_table(storage.join(gallery_uri, f"{pointer.table}.lance"), pointer.tag)
    schema = dataset.schema.with_metadata({**(dataset.schema.metadata or {}), **shards.GEO_METADATA})
    num_rows = 0
    with tempfile.TemporaryDirectory(prefix="cmir-export-") as folder:
        path = Path(folder) / "rows.parquet"
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for batch in dataset.to_batches():
                writer.write_batch(batch)
                num_rows += len(batch)
        storage.upload(path, output_uri)
    return num_rows


@dataclass(frozen=True)
class Finding:
    """One line of `cmir doctor`; `is_fine` is None for what is optional and absent."""

    part: str
    is_fine: bool | None
    detail: str


def examine_machine() -> list[Finding]:
    """What is here of what cmir needs, and of what it can use."""
    findings = [Finding("python", sys.version_info >= (3, 11), f"{platform.python_version()} on {platform.machine()}")]
    findings += [_package(name) for name in _PACKAGES]
    findings += [_tried("torchaudio features", _mel), _tried("espeak-ng voices", _voices)]
    engines = (("Pico", "ttspico", pico_is_installed()), ("flite", "flite", flite_is_installed()))
    for name, packages, is_here in (*engines, ("Festival", festival.PACKAGES, festival.festival_is_installed())):
        detail = "speaks" if is_here else f"optional: install {packages} for more voices"
        findings.append(Finding(f"{name} voices", True if is_here else None, detail))
    heard = pocketsphinx_is_installed()
    detail = "listens" if heard else "optional: pip install 'cmir[ears]' for a second ear"
    findings += [Finding("pocketsphinx", True if heard else None, detail), _gpu()]
    settings = S3Settings.from_environment()
    place = settings.endpoint_url or "default endpoint"
    keyed = settings.access_key_id is not None
    findings.append(Finding("object storage", True if keyed else None, place if keyed else "no AWS_* keys are set"))
    return findings


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, f"not installed: pip install {name}")


def _tried(part: str, attempt: Callable[[], str]) -> Finding:
    try:
        return Finding(part, True, attempt())
    except (CmirError, ImportError, OSError) as error:
        return Finding(part, False, str(error))


def _mel() -> str:
    import torch

    from cmir.archive.log_mel import LogMel

    shape = tuple(LogMel()(torch.zeros(1, 16_000)).shape)
    return f"log-mel of one second: {shape[1]} bands x {shape[2]} frames"


def _voices() -> str:
    from cmir.archive.sources.tts import TtsSource

    return f"{len(TtsSource(voices=8, engines=()).drawn_voices())} of 8 voices drawn"


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("GPU", None, "none: everything runs on the CPU")
    return Finding("GPU", True, ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())))
