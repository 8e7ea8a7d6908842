"""Scenes -> chips by windowed reads: one or several raster files on one grid, with nodata and clouds honoured.

A chip with any pixel of nodata (the file's value, its mask, its alpha band, or a band of one value throughout) is no
chip; one that a cloud mask calls cloudy in more than the allowed share is none either.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

import numpy as np
import rasterio.windows
import shapely
from rasterio.enums import MaskFlags, Resampling

from cmir.archive.class_folders import overlapping_footprints
from cmir.archive.imagery import raw_media
from cmir.archive.overlap import grouped
from cmir.archive.product_names import CloudKind
from cmir.archive.raster import (
    Georeference,
    Pixels,
    Window,
    is_mask,
    open_file,
    to_native,
)
from cmir.archive.raster_file import RasterInfo, grid_windows, holds_nodata
from cmir.archive.schema import Modality, ShardRow, make_group_id, make_item_id
from cmir.archive.sensors import band_wavelength, modality_of_bands
from cmir.archive.sources import Item
from cmir.errors import DataError

_GLANCE_PX: Final = 256  # side at which an alpha band is looked at
_CLOUDY_CLASSES: Final = (8, 9, 10)  # of Sentinel-2's scene classification (ESA): medium, high probability, cirrus
_CLOUDY_BITS: Final = 0b1110  # of Landsat's QA_PIXEL (USGS): dilated cloud, cirrus, cloud


@dataclass(frozen=True, slots=True)
class Layer:
    """One raster file of a scene; `info` has the bands that are pixels, which come first in the file."""

    uri: str
    info: RasterInfo
    has_mask: bool = False
    has_alpha: bool = False

    @property
    def grid(self) -> tuple[int, int, Georeference | None]:
        """What files that can be stacked have in common."""
        return self.info.width, self.info.height, self.info.georeference

    @classmethod
    def read(cls, uri: str, *, sensor: str | None = None, band: str | None = None) -> "Layer":
        """From the header (and a glance at an alpha band); `band` names the only band of a file.

        Raises DataError where the file cannot be read.
        """
        with open_file(uri) as dataset:
            info, flags = RasterInfo.of(dataset, sensor), dataset.mask_flag_enums[0]
            has_alpha = dataset.count > 1 and dataset.colorinterp[-1].name == "alpha" and _is_alpha(dataset)
            has_mask = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
        bands = info.bands[:-1] if has_alpha else info.bands
        bands = (band,) if band is not None and len(bands) == 1 else bands
        return cls(uri, replace(info, bands=bands), has_mask, has_alpha)

    def named(self, bands: tuple[str, ...]) -> "Layer":
        """The same with these names of its bands."""
        return replace(self, info=replace(self.info, bands=bands))

    def pixels(self, window: Window) -> Pixels | None:
        """[C,h,w] of a window inside the file, native dtype; None where any is nodata. Raises DataError: unreadable."""
        place = rasterio.windows.Window(*window)
        with open_file(self.uri) as dataset:
            pixels = to_native(dataset.read(list(range(1, len(self.info.bands) + 1)), window=place), self.uri)
            masked = self.has_mask and not dataset.read_masks(1, window=place).all()
            masked = masked or (self.has_alpha and not dataset.read(dataset.count, window=place).all())
        return None if masked or holds_nodata(pixels, self.info.nodata) else pixels


@dataclass(frozen=True, slots=True)
class CloudMask:
    """A raster that tells which pixels are cloudy; its grid may be coarser or finer than the scene's."""

    uri: str
    kind: CloudKind

    def share(self, window: Window, size: tuple[int, int]) -> float:
        """Cloudy share, 0..1, of a window of a scene of `size` (width, height); both show the same ground.

        Raises DataError where the mask cannot be read.
        """
        with open_file(self.uri) as dataset:
            across, down = dataset.width / size[0], dataset.height / size[1]
            column, row, width, height = window
            place = rasterio.windows.Window(column * across, row * down, width * across, height * down)
            shape = max(1, round(place.height)), max(1, round(place.width))
            values = dataset.read(1, window=place, out_shape=shape, resampling=Resampling.nearest)
        if self.kind == "scl":
            return float(np.isin(values, _CLOUDY_CLASSES).mean())
        return float((values & _CLOUDY_BITS if self.kind == "qa_pixel" else values).astype(bool).mean())


@dataclass(frozen=True, slots=True)
class Scene:
    """Layers on one grid, or why they cannot be used; `name` is the scene's own in its source.

    `cloud_cover` (per cent) and `geometry` (WKB, degrees) are the whole scene's, told of chips where no mask and no
    georeference tells theirs; `asset` keeps scenes of one name on different grids apart.
    """

    name: str
    layers: tuple[Layer, ...]
    asset: str = ""
    sensor: str | None = None
    acquired_at: datetime | None = None
    clouds: CloudMask | None = None
    cloud_cover: float | None = None
    geometry: bytes | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def bands(self) -> tuple[str, ...]:
        """Of all layers, in their order."""
        return tuple(band for layer in self.layers for band in layer.info.bands)

    @property
    def modality(self) -> Modality:
        """Told by the bands of all layers."""
        return modality_of_bands(self.bands)

    def failed(self, error: str) -> "Scene":
        """The same without layers, for what is wrong with it."""
        return replace(self, layers=(), error=error)

    def footprint(self) -> shapely.Polygon | None:
        """In degrees, None where the scene has no place."""
        info = self.layers[0].info if self.layers else None
        if info is None or info.georeference is None:
            return None
        return shapely.Polygon(info.georeference.polygon_lonlat(info.width, info.height))


def scenes_of_layers(described: Scene, layers: Sequence[Layer]) -> list[Scene]:
    """The scene with its layers: one for each grid, in the order of their first layers."""
    by_grid: dict[tuple[int, int, Georeference | None], list[Layer]] = {}
    for layer in layers:
        by_grid.setdefault(layer.grid, []).append(layer)
    return [
        replace(
            described,
            layers=tuple(stack),
            asset="" if len(by_grid) == 1 else "+".join(band for layer in stack for band in layer.info.bands),
            acquired_at=described.acquired_at or stack[0].info.acquired_at,
        )
        for stack in by_grid.values()
    ]


def chip_items(scenes: Sequence[Scene], chip_size_px: int) -> Iterator[Item]:
    """One item per chip of every scene; scenes whose footprints overlap share scene_id. One that fails is one item."""
    pairs = overlapping_footprints([scene.footprint() for scene in scenes])
    first_of: dict[str, int] = {}
    same_name = [(first_of.setdefault(scene.name, i), i) for i, scene in enumerate(scenes)]
    firsts = grouped(len(scenes), [*pairs, *same_name])
    for scene, first in zip(scenes, firsts, strict=True):
        scene_id = make_group_id("ground", scenes[first].name)
        uri = scene.layers[0].uri if scene.layers else scene.name
        further = tuple(layer.uri for layer in scene.layers[1:])
        size = scene.layers[0].grid[:2] if scene.layers else (0, 0)
        windows: list[Window | None] = [*grid_windows(*size, chip_size_px)] if all(size) else []
        for window in windows or [None]:
            num_bytes = 2 * len(scene.bands) * window[2] * window[3] if window else 0
            name = f"{scene.name}#{scene.asset}" if scene.asset else scene.name
            key = name + (f"@{window[0]},{window[1]}" if window else "")
            detail = {"scene": scene, "window": window}
            yield Item(key, scene_id, num_bytes, source_uri=uri, further_uris=further, detail=detail)


def chip_rows(source: str, item: Item, max_cloud_cover: float) -> Iterator[ShardRow]:
    """The chip of one item; none where it holds nodata, or by a mask more cloud than `max_cloud_cover` per cent.

    Raises DataError: the scene cannot be used, or a file cannot be read.
    """
    scene: Scene = item.detail["scene"]
    window: Window | None = item.detail["window"]
    if scene.error is not None or window is None:
        raise DataError("scene cannot be used", seen=scene.error, expected="rasters on one grid", where=item.source_uri)
    first = scene.layers[0]
    cloud_cover = scene.cloud_cover
    if scene.clouds is not None:
        cloud_cover = 100.0 * scene.clouds.share(window, first.grid[:2])
        if cloud_cover > max_cloud_cover:
            return
    parts = []
    for layer in scene.layers:
        pixels = layer.pixels(window)
        if pixels is None:
            return
        parts.append(pixels)
    place = first.info.georeference.moved(window[0], window[1]) if first.info.georeference else None
    media = raw_media(
        scene.modality,
        np.concatenate([part.astype(np.result_type(*parts), copy=False) for part in parts]),
        bands=scene.bands,
        wavelength_nm=[band_wavelength(band, scene.sensor) for band in scene.bands],
        sensor=scene.sensor,
        gsd_m=place.gsd_m() if place else None,
    )
    ring = shapely.Polygon(place.polygon_lonlat(window[2], window[3])) if place else None
    whole = shapely.from_wkb(scene.geometry) if scene.geometry else None
    ground = ring or whole
    yield ShardRow(
        item_id=make_item_id(source, scene.name, f"{media.modality}{scene.asset}", window),
        media=media,
        scene_id=item.scene_id,
        source_uri=first.uri,
        acquired_at=scene.acquired_at,
        cloud_cover=cloud_cover,
        crs=place.crs if place else None,
        bbox=ground.bounds if ground else None,
        geometry=shapely.to_wkb(ground) if ground else None,
        window=window,
        attributes=json.dumps(dict(scene.attributes)) if scene.attributes else None,
    )


def _is_alpha(dataset: "rasterio.io.DatasetReader") -> bool:
    """Whether a band of that name is a mask: NAIP's files and others carry near-infrared under it."""
    side = min(dataset.height, _GLANCE_PX), min(dataset.width, _GLANCE_PX)
    return is_mask(dataset.read(dataset.count, out_shape=side, resampling=Resampling.nearest))
