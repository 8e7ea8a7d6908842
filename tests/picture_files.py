"""Small image files for tests: textured ground, so that no two images are alike unless they shall be."""

import io
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from PIL import Image
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine


def ground(seed: int, height: int = 64, width: int = 64, bands: int = 3) -> npt.NDArray[np.uint8]:
    """uint8[H,W,bands], blobs of several sizes."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, bands))
    for cell in (2, 4, 8):
        coarse = rng.uniform(0, 85, (height // cell + 1, width // cell + 1, bands))
        total += np.repeat(np.repeat(coarse, cell, 0), cell, 1)[:height, :width]
    return total.astype(np.uint8)


def encoded(pixels: npt.NDArray[np.uint8], kind: str = "PNG") -> bytes:
    """An image file of uint8[H,W,C] or [H,W]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_image(path: Path, seed: int, size_px: int = 64) -> Path:
    """A PNG, TIFF or JPEG (by the name) of its own ground."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"png": "PNG", "tif": "TIFF", "jpg": "JPEG", "webp": "WEBP"}[path.suffix[1:]]
    path.write_bytes(encoded(ground(seed, size_px, size_px), kind))
    return path


def write_geotiff(
    path: Path,
    pixels: npt.NDArray[np.generic],
    *,
    gsd_m: float = 1.0,
    west: float = 500_000.0,
    north: float = 5_000_000.0,
    descriptions: tuple[str, ...] = (),
    nodata: float | None = None,
    tags: dict[str, str] | None = None,
    crs: str | None = "EPSG:32631",
    transform: Affine | None = None,
) -> Path:
    """A GeoTIFF of [C,H,W] whose north-western corner lies at (west, north) metres of its CRS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = pixels.shape
    place = (
        {"crs": CRS.from_user_input(crs), "transform": transform or Affine(gsd_m, 0.0, west, 0.0, -gsd_m, north)}
        if crs
        else {}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        dataset = rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=width,
            height=height,
            count=bands,
            dtype=pixels.dtype,
            nodata=nodata,
            **place,
        )
    with dataset:
        dataset.write(pixels)
        for band, name in enumerate(descriptions, start=1):
            dataset.set_band_description(band, name)
        dataset.update_tags(**(tags or {}))
    return path
