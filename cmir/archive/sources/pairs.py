"""manifest.csv (pan, ms; optionally labels, scene_id, sensor) -> PAN and MS chips of the same ground, paired.

Rasters may have any size, ratio and type; their ground is matched by `colocated`. One item is one chip, so that many
workers can cut a large scene; listing reads headers only. Chips of one scene share scene_id (the manifest's, else that
of its PAN; scenes with overlapping footprints share one), since neighbouring chips of a scene are no independent test.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import shapely

from cmir.archive.class_folders import overlapping_footprints
from cmir.archive.colocated import Alignment, chip_windows, read_box
from cmir.archive.imagery import raw_media
from cmir.archive.overlap import grouped
from cmir.archive.raster import Georeference
from cmir.archive.raster_file import RasterFile, RasterInfo, Window, holds_nodata
from cmir.archive.schema import Media, ShardRow, make_group_id, make_item_id
from cmir.archive.sensors import band_wavelength, sensor_named
from cmir.archive.sources import Item
from cmir.archive.sources.manifest import Manifest, ManifestRow, read_manifest
from cmir.errors import DataError

DEFAULT_CHIP_SIZE_PX: Final = 256
_OWN_COLUMNS: Final = ("pan", "ms", "labels", "scene_id", "sensor")


@dataclass(frozen=True, slots=True)
class _Scene:
    """One line of the manifest with its two headers, or why they could not be read."""

    row: ManifestRow
    pan_name: str
    ms_name: str
    pan: RasterFile
    ms: RasterFile
    pan_info: RasterInfo | None = None
    ms_info: RasterInfo | None = None
    alignment: Alignment | None = None
    error: str | None = None


@dataclass(frozen=True)
class PairsSource:
    """Source `pairs`: the manifest, or the folder that holds it."""

    uri: str
    chip_size_px: int = DEFAULT_CHIP_SIZE_PX

    def items(self) -> Iterator[Item]:
        """One item per chip, from headers; a line whose rasters cannot be read is one item that fails.

        Raises DataError: no manifest, no column pan or ms, no lines.
        """
        manifest = read_manifest(self.uri, ("pan", "ms"))
        names = zip(manifest.rows, manifest.own_names("pan"), manifest.own_names("ms"), strict=True)
        scenes = [_scene(manifest, row, pan_name, ms_name) for row, pan_name, ms_name in names]
        for scene, scene_id in zip(scenes, _scene_ids(scenes), strict=True):
            detail = {"scene": scene, "manifest_uri": manifest.uri}
            windows: list[Window | None] = [*self._windows(scene)]
            for window in windows or [None]:
                size = 4 * window[2] * window[3] if window else 0
                key = f"{scene.pan_name}+{scene.ms_name}" + (f"@{window[0]},{window[1]}" if window else "")
                uri = scene.pan.uri
                further = (scene.ms.uri,)
                detail = {**detail, "window": window}
                yield Item(key, scene_id, size, source_uri=uri, further_uris=further, detail=detail)

    def rows(self, item: Item) -> Iterator[ShardRow]:
        """PAN and MS of one chip; none where either holds nodata. Raises DataError: unreadable, no common ground."""
        scene: _Scene = item.detail["scene"]
        window: Window | None = item.detail["window"]
        if scene.error is not None or scene.pan_info is None or scene.ms_info is None or scene.alignment is None:
            where = f"{item.detail['manifest_uri']}, line {scene.row.line}"
            raise DataError("pair cannot be used", seen=scene.error, expected="pan and ms of one ground", where=where)
        if window is None:
            seen = f"pan {scene.pan_info.width} x {scene.pan_info.height} px"
            raise DataError("no chip of pan lies inside ms", seen=seen, expected="common ground", where=scene.ms.uri)
        pan_pixels = scene.pan.read(window)
        box = scene.alignment.box(window)
        ms_pixels = read_box(scene.ms, scene.ms_info, box)
        if ms_pixels is None or holds_nodata(pan_pixels, scene.pan_info.nodata):
            return
        sensor = scene.row.cells.get("sensor") or None
        pan_gsd_m, ms_gsd_m = _gsds(scene, sensor)
        ms_window = (round(box.column), round(box.row), ms_pixels.shape[2], ms_pixels.shape[1])
        pair_id = make_group_id("pair", scene.pan_name, scene.ms_name, str(window))
        pan_media = raw_media("pan", pan_pixels, bands=("pan",), sensor=sensor, gsd_m=pan_gsd_m)
        bands = scene.ms_info.bands
        centres = [band_wavelength(band, sensor) for band in bands]
        ms_media = raw_media("ms", ms_pixels, bands=bands, wavelength_nm=centres, sensor=sensor, gsd_m=ms_gsd_m)
        yield _row(item, scene, pan_media, scene.pan_name, scene.pan, scene.pan_info, window, pair_id)
        yield _row(item, scene, ms_media, scene.ms_name, scene.ms, scene.ms_info, ms_window, pair_id)

    def _windows(self, scene: _Scene) -> list[Window]:
        if scene.pan_info is None or scene.ms_info is None or scene.alignment is None:
            return []
        return list(chip_windows(scene.pan_info, scene.ms_info, scene.alignment, self.chip_size_px))


def _scene(manifest: Manifest, row: ManifestRow, pan_name: str, ms_name: str) -> _Scene:
    pan, ms = (RasterFile.parse(manifest.resolve(row.cells[column])) for column in ("pan", "ms"))
    scene = _Scene(row, pan_name, ms_name, pan, ms)
    sensor = row.cells.get("sensor") or None
    try:
        pan_info, ms_info = pan.info(), ms.info(sensor)
        if len(pan_info.bands) != 1:
            raise DataError(
                "wrong band count", seen=f"{len(pan_info.bands)} bands", expected="1 for pan", where=pan.uri
            )
        if len(ms_info.bands) < 2:
            raise DataError("wrong band count", seen="1 band", expected="2 or more for ms", where=ms.uri)
        alignment = Alignment.of(pan_info, ms_info)
    except DataError as error:
        return _Scene(row, pan_name, ms_name, pan, ms, error=str(error))
    return _Scene(row, pan_name, ms_name, scene.pan, scene.ms, pan_info, ms_info, alignment)


def _scene_ids(scenes: Sequence[_Scene]) -> list[str]:
    """The manifest's scene_id where it gives one, else one per ground: overlapping PAN footprints share it."""
    footprints = [_footprint(scene.pan_info) for scene in scenes]
    first_of: dict[str, int] = {}
    same_file = [(first_of.setdefault(scene.pan_name, i), i) for i, scene in enumerate(scenes)]
    firsts = grouped(len(scenes), [*overlapping_footprints(footprints), *same_file])
    found = [scene.row.cells.get("scene_id") or "" for scene in scenes]
    return [given or make_group_id("ground", scenes[firsts[i]].pan_name) for i, given in enumerate(found)]


def _footprint(info: RasterInfo | None) -> shapely.Polygon | None:
    if info is None or info.georeference is None:
        return None
    return shapely.Polygon(info.georeference.polygon_lonlat(info.width, info.height))


def _gsds(scene: _Scene, sensor: str | None) -> tuple[float | None, float | None]:
    """Metres of PAN and MS: of their georeferences, else of a listed sensor, else None."""
    known = sensor_named(sensor)
    places = [info.georeference if info else None for info in (scene.pan_info, scene.ms_info)]
    pan_band = known.band("pan") if known else None
    ms_band = known.ms_bands[0] if known else None
    pan_gsd_m, ms_gsd_m = (
        place.gsd_m() if place else band.gsd_m if band else None
        for place, band in zip(places, (pan_band, ms_band), strict=True)
    )
    return pan_gsd_m, ms_gsd_m


def _row(
    item: Item,
    scene: _Scene,
    media: Media,
    name: str,
    file: RasterFile,
    info: RasterInfo,
    window: Window,
    pair_id: str,
) -> ShardRow:
    place: Georeference | None = info.georeference.moved(window[0], window[1]) if info.georeference else None
    cells = scene.row.cells
    labels = tuple(dict.fromkeys(label.strip() for label in cells.get("labels", "").split(";") if label.strip()))
    other = {column: text for column, text in cells.items() if column not in _OWN_COLUMNS and column and text}
    return ShardRow(
        item_id=make_item_id("pairs", name, media.modality, window),
        media=media,
        scene_id=item.scene_id,
        source_uri=file.uri + (f":{file.variable}" if file.variable else ""),
        labels=labels,
        pair_id=pair_id,
        acquired_at=info.acquired_at,
        crs=place.crs if place else None,
        bbox=place.bbox_lonlat(window[2], window[3]) if place else None,
        geometry=shapely.to_wkb(shapely.Polygon(place.polygon_lonlat(window[2], window[3]))) if place else None,
        window=window,
        attributes=json.dumps(other) if other else None,
    )
