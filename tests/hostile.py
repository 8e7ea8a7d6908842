"""Files and requests made to break a service: whole ones of every kind, mutated; seeded, so findings come back."""

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from PIL import Image

from tests.serve_doubles import pixels, png, tone, wav
from tests.test_media import recorded, tiff

Random = np.random.Generator
_EXTREMES: Final = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000000)


def whole_images() -> dict[str, bytes]:
    """Small images of every kind that the service reads."""
    colour, grey, bands = pixels("rgb", 0, 48), pixels("pan", 0, 48), pixels("ms", 0, 48)
    deep = bands.astype(np.uint16) * 257
    files = {"png-rgb": png(colour), "png-grey": png(grey), "png-16": png(deep[:1])}
    picture = Image.fromarray(colour.transpose(1, 2, 0))
    for name, mode, kind, settings in (
        ("png-palette", "P", "PNG", {}),
        ("png-alpha", "RGBA", "PNG", {}),
        ("jpeg", "RGB", "JPEG", {}),
        ("jpeg-progressive", "RGB", "JPEG", {"progressive": True}),
        ("jpeg-cmyk", "CMYK", "JPEG", {}),
        ("webp", "RGB", "WEBP", {}),
        ("webp-lossless", "RGB", "WEBP", {"lossless": True}),
        ("tiff-group4", "1", "TIFF", {"compression": "group4"}),
    ):
        buffer = io.BytesIO()
        picture.convert(mode).save(buffer, kind, **settings)
        files[name] = buffer.getvalue()
    tiled = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    for name, image, settings in (
        ("tiff", colour, {}),
        ("tiff-lzw", deep, {"compress": "lzw", "predictor": 2}),
        ("tiff-deflate-tiled", deep, {"compress": "deflate", **tiled}),
        ("tiff-zstd", bands, {"compress": "zstd"}),
        ("tiff-jpeg", colour, {"compress": "jpeg", "photometric": "YCBCR", **tiled}),
        ("tiff-float", bands.astype(np.float32), {"compress": "deflate", "predictor": 3}),
        ("tiff-big", deep, {"BIGTIFF": "YES"}),
        ("tiff-planar", deep, {"interleave": "band"}),
    ):
        files[name] = tiff(image, **settings)
    return files


def whole_sounds() -> dict[str, bytes]:
    """Short recordings of every kind that the service reads."""
    files = {kind.lower(): wav(tone(1), kind) for kind in ("WAV", "FLAC", "OGG", "MP3")}
    return files | {"webm": recorded("webm", "libopus"), "mp4": recorded("mp4", "aac")}


def mutated(files: Sequence[bytes], random: Random) -> bytes:
    """One of the files after one to four mutations; every fourth PNG with checksums that are right all the same."""
    data = bytearray(files[random.integers(len(files))])
    for _ in range(random.integers(1, 5)):
        if data:
            mutate = _MUTATIONS[random.integers(len(_MUTATIONS))]
            data = bytearray(mutate(data, random, files))
    return with_checksums(bytes(data)) if random.random() < 0.25 else bytes(data)


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks all have their checksum, so that what is wrong inside them is read; other bytes unchanged."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return data
    mended, place = bytearray(data[:8]), 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        body = data[place + 4 : place + 8 + length]
        mended += struct.pack(">I", length) + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + length
    return bytes(mended + data[place:])


def _flip(data: bytearray, random: Random, _: Sequence[bytes]) -> bytes:
    for place in random.integers(len(data), size=random.integers(1, 33)):
        data[place] ^= 1 << int(random.integers(8))
    return bytes(data)


def _overwrite(data: bytearray, random: Random, _: Sequence[bytes]) -> bytes:
    start, length = random.integers(len(data)), int(random.integers(1, 65))
    filling = (bytes(length), b"\xff" * length, random.bytes(length))[random.integers(3)]
    return bytes(data[:start]) + filling + bytes(data[start + length :])


def _cut(data: bytearray, random: Random, _: Sequence[bytes]) -> bytes:
    return bytes(data[: random.integers(len(data))])


def _drop(data: bytearray, random: Random, _: Sequence[bytes]) -> bytes:
    start = random.integers(len(data))
    return bytes(data[:start]) + bytes(data[start + random.integers(1, 257) :])


def _repeat(data: bytearray, random: Random, _: Sequence[bytes]) -> bytes:
    start = random.integers(len(data))
    part = bytes(data[start : start + random.integers(1, 257)])
    return bytes(data[:start]) + part * int(random.integers(2, 20)) + bytes(data[start:])


def _splice(data: bytearray, random: Random, files: Sequence[bytes]) -> bytes:
    other = files[random.integers(len(files))]
    return bytes(data[: random.integers(len(data))]) + other[random.integers(len(other)) :]


def _extreme(data: bytearray, random: Random, _: Sequence[bytes]) -> bytes:
    """A number in the head of the file at a bound of its type."""
    kind = ("<H", ">H", "<I", ">I")[random.integers(4)]
    value = _EXTREMES[random.integers(len(_EXTREMES))] & (2 ** (8 * struct.calcsize(kind)) - 1)
    place = int(random.integers(min(len(data), 512)))
    return bytes(data[:place]) + struct.pack(kind, value) + bytes(data[place + struct.calcsize(kind) :])


_MUTATIONS: Final[tuple[Callable[[bytearray, Random, Sequence[bytes]], bytes], ...]] = (
    _flip,
    _overwrite,
    _cut,
    _drop,
    _repeat,
    _splice,
    _extreme,
    _extreme,
)

_TEXTS: Final = (
    "",
    " ",
    "'",
    "''; DROP TABLE items; --",
    "' OR '1'='1",
    "water') OR array_has_all(labels, ['grass",
    "\\",
    "%",
    "\u0000",
    "\u202e",
    "\U0001f6f0",
    "a" * 300,
    "../../etc/passwd",
    "{{7*7}}",
    "${jndi:ldap://127.0.0.1/a}",
    "<script>alert(1)</script>",
    "nan",
    "-1",
    "1e309",
    "9" * 400,
    "a,b,,c",
    "\ud800",
)
_NUMBERS: Final = (0, -0.0, -1, 1, 180, 181, 1e-320, 1e308, -1e308, 2**63, 10**400, True, None, "12", "x", [], {})
_DATES: Final = (
    "2020-01-01",
    "../..",
    "2020-01-01/..",
    "9999-12-31T23:59:59.999999999Z/..",
    "0001-01-01/0000-00-00",
    "2020-13-45",
    "2021-01-01/2020-01-01",
    "2020-01-01T00:00:00+99:99",
    "/",
    "a/b/c",
)
_POLYGONS: Final = (
    "POLYGON EMPTY",
    "POLYGON((0 0, 1 1, 1 0, 0 1, 0 0))",
    "POLYGON((0 0, 0 0, 0 0, 0 0))",
    "POLYGON((1e308 1e308, -1e308 1e308, 0 -1e308, 1e308 1e308))",
    "POLYGON((nan nan, 1 1, 1 0, nan nan))",
    "MULTIPOLYGON(((0 0, 60 0, 60 60, 0 0)))",
    "GEOMETRYCOLLECTION(POINT(0 0))",
    '{"type": "Polygon", "coordinates": [[[0, 0], [60, 0], [60, 60], [0, 0]]]}',
    '{"type": "Polygon", "coordinates": [[[0, 0], ["x", 0], [60, 60], [0, 0]]]}',
    '{"type": "Polygon", "coordinates": []}',
    '{"type": "Polygon", "coordinates": ' + "[" * 3000 + "]" * 3000 + "}",
    {"type": "Polygon", "coordinates": [[[0, 0], [1, 0]]]},
    {"type": "Feature"},
    {"type": "MultiPolygon", "coordinates": [[[[10, 50], [20, 50], [20, 60], [10, 50]]]]},
)


def hostile_filters(random: Random) -> dict[str, Any]:
    """Filters as a request's JSON, of values at and over their bounds and of other types."""

    def any_of(values: Sequence[Any]) -> Any:
        return values[random.integers(len(values))]

    made: dict[str, Callable[[], Any]] = {
        "bbox": lambda: any_of(
            [[any_of(_NUMBERS) for _ in range(random.integers(6))], any_of(_TEXTS), any_of(_NUMBERS)]
        ),
        "polygon": lambda: any_of(_POLYGONS + _TEXTS),
        "datetime": lambda: any_of(_DATES + _TEXTS),
        "sensor": lambda: any_of(_TEXTS + _NUMBERS),
        "labels": lambda: any_of(
            [[any_of(_TEXTS) for _ in range(random.integers(80))], any_of(_TEXTS), any_of(_NUMBERS)]
        ),
        "cloud_cover_max": lambda: any_of(_NUMBERS),
        "gsd_min_m": lambda: any_of(_NUMBERS),
        "gsd_max_m": lambda: any_of(_NUMBERS),
        str(any_of(_TEXTS)): lambda: any_of(_NUMBERS),
    }
    names = list(made)
    return {names[i]: made[names[i]]() for i in random.choice(len(names), size=random.integers(1, 4), replace=False)}


def hostile_body(random: Random) -> bytes:
    """A JSON body with them, or one that is no JSON any more."""
    body: dict[str, Any] = {"parts": [{"kind": "label", "label": "water"}], "filters": hostile_filters(random)}
    if random.random() < 0.3:
        body["k"] = _NUMBERS[random.integers(len(_NUMBERS))]
    if random.random() < 0.3:
        body["target"] = _TEXTS[random.integers(len(_TEXTS))]
    text = json.dumps(body).encode()
    if random.random() < 0.15:
        return mutated([text], random)
    return text


def hostile_headers(random: Random) -> Iterator[tuple[bytes, bytes]]:
    """One to six headers that the service, its framework or a proxy reads, with values that they do not expect."""
    names = (
        b"accept",
        b"authorization",
        b"content-type",
        b"cookie",
        b"expect",
        b"forwarded",
        b"if-none-match",
        b"origin",
        b"range",
        b"te",
        b"traceparent",
        b"upgrade",
        b"x-forwarded-for",
        b"x-forwarded-prefix",
        b"x-http-method-override",
        b"x-request-id",
    )
    values = (
        b"",
        b"*/*",
        b"application/geo+json",
        b"multipart/form-data",
        b"multipart/form-data; boundary=" + b"-" * 300,
        b"multipart/form-data; boundary=x; charset=nonsense",
        b"application/json; charset=utf-7",
        b"text/plain",
        b"Bearer",
        b"Bearer " + b"a" * 5000,
        b"Basic \xff\xfe",
        b"\xe2\x80\xae",
        b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01",
        b"00-zz-zz-zz",
        b"bytes=0-,5-1,-9",
        b"http://evil.example",
        b"null",
        b"100-continue",
        b"a=b; a=c;" * 50,
        b"' OR 1=1 --",
        b"../../../../etc/passwd",
        b"%00%0d%0a",
        b"websocket",
        b"9" * 200,
    )
    for _ in range(random.integers(1, 7)):
        yield names[random.integers(len(names))], values[random.integers(len(values))]
