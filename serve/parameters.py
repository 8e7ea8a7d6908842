"""The query string of a request -> hints, targets and filters; a parameter that is not known is refused.

Lists are written `a,b` or by repeating the parameter. Filters come one by one or as one JSON object in `filters`, not
both ways at once for the same one. A chip's own sensor and gsd are `image_sensor` and `image_gsd_m`, because `sensor`
and `gsd_*` without that name filter what is found.
"""

import json
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from cmir.archive.schema import Modality
from cmir.errors import QueryError
from cmir.gallery.filters import Filters
from serve.limits import DEFAULT_HITS, MAX_HITS
from serve.media import ImageHints, as_modality

_FILTER_NAMES: Final = (
    "bbox",
    "polygon",
    "datetime",
    "sensor",
    "labels",
    "cloud_cover_max",
    "gsd_min_m",
    "gsd_max_m",
)
_MAX_FILTER_CHARS: Final = 8192  # of a query string, of which servers take 64 kB in all; a JSON body may hold more


class SpeechParameters(BaseModel):
    """Nothing but the sound: parameters of embedding speech."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageParameters(BaseModel):
    """What the asker says of the image itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bands: str | None = Field(None, max_length=1024, description="names in the file's order: blue,green,red,nir")
    image_sensor: str | None = Field(None, max_length=64, description="sensor the query comes from")
    image_gsd_m: float | None = Field(None, gt=0, allow_inf_nan=False, description="its ground sampling distance, m")
    window: str | None = Field(
        None,
        max_length=64,
        pattern=r"^\d{1,9},\d{1,9},\d{1,9},\d{1,9}$",
        description="column,row,width,height: the part of a scene that is meant, in pixels; default: all of it",
    )

    def hints(self, modality: Modality | None) -> ImageHints:
        """The same for the decoder."""
        column, row, width, height = map(int, self.window.split(",")) if self.window else (0, 0, 0, 0)
        window = (column, row, width, height) if self.window else None
        return ImageHints(modality, _listed(self.bands), self.image_sensor, self.image_gsd_m, window)


class SearchParameters(BaseModel):
    """What is wanted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: list[str] = Field(default_factory=list, max_length=16, description="pan, ms, rgb, speech; default: all")
    k: int = Field(DEFAULT_HITS, ge=1, le=MAX_HITS, description="hits wanted")
    bbox: str | None = Field(None, max_length=256, description="west,south,east,north in degrees")
    polygon: str | None = Field(
        None, max_length=_MAX_FILTER_CHARS, description="GeoJSON or WKT, degrees; longer ones in a JSON body"
    )
    datetime: str | None = Field(None, max_length=128, description="a/b, either end may be ..")
    sensor: str | None = Field(None, max_length=1024, description="sensor of what is found")
    labels: str | None = Field(None, max_length=4096, description="a,b: items that carry all of them")
    cloud_cover_max: float | None = Field(None, allow_inf_nan=False, description="0..100")
    gsd_min_m: float | None = Field(None, allow_inf_nan=False)
    gsd_max_m: float | None = Field(None, allow_inf_nan=False)
    filters: str | None = Field(None, max_length=_MAX_FILTER_CHARS, description="all filters as one JSON object")

    def targets(self) -> tuple[Modality, ...]:
        """Modalities asked for, each once; empty means all. Raises QueryError for others."""
        return tuple(dict.fromkeys(as_modality(name) for text in self.target for name in _listed(text)))

    def wanted_filters(self) -> Filters | None:
        """The filters, None where there are none. Raises QueryError where they do not hold together."""
        given = {name: value for name in _FILTER_NAMES if (value := getattr(self, name)) is not None}
        whole = _json_object(self.filters) if self.filters else {}
        if twice := given.keys() & whole.keys():
            raise QueryError("filters are given twice", seen=", ".join(sorted(twice)), expected="each once")
        return Filters.parse({**whole, **given}) if given or whole else None


class ImageSearchParameters(ImageParameters, SearchParameters):
    """Both, and the modality of the image."""

    modality: Literal["auto", "pan", "ms", "rgb"] = Field("auto", description="auto: told by the bands")

    def image_hints(self) -> ImageHints:
        """The hints with the modality that was given."""
        return self.hints(None if self.modality == "auto" else self.modality)


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # the latter for text nested too deeply
        raise QueryError("filters are not JSON", seen=repr(text[:100]), expected="a JSON object") from error
    if not isinstance(value, dict):
        raise QueryError("filters are not a JSON object", seen=type(value).__name__, expected="a JSON object")
    return value


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())
