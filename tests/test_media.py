"""What a query's bytes are is told by themselves: kinds, modalities, sizes, refusals."""

import io
import struct
import zlib

import av
import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from pydantic import ValidationError
from rasterio.enums import ColorInterp

from cmir.archive.imagery import decode_chip
from cmir.archive.speech import decode_speech
from cmir.errors import DataError, QueryError
from serve.isolated import decoded, raw_media_of
from serve.limits import Limits
from serve.media import ImageBytes, ImageHints, SpeechBytes, image_media, sized_media, speech_media
from serve.problems import ProblemError
from tests.serve_doubles import pixels, png, tone, wav

LIMITS = Limits()
NO_HINTS = ImageHints()


def picture(kind: str, mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (9, 7)).save(buffer, kind)
    return buffer.getvalue()


def tiff(image: np.ndarray, **settings: object) -> bytes:
    bands, height, width = image.shape
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff", count=bands, height=height, width=width, dtype=image.dtype, crs="EPSG:32633",
            transform=Affine(2, 0, 5e5, 0, -2, 5e6), **settings
        ) as dataset:  # fmt: skip
            dataset.write(image)
        return bytes(memory.read())


def recorded(kind: str, codec: str, seconds: float = 0.5) -> bytes:
    """A tone as a browser's recorder writes it."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        samples = (0.3 * np.sin(np.arange(int(48_000 * seconds)) * 2 * np.pi * 440 / 48_000)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = 48_000
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=48_000, frame_size=stream.frame_size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "kind", "modality"),
    [
        (picture("PNG", "L"), "png", "pan"),
        (picture("PNG", "I;16"), "png", "pan"),
        (picture("PNG", "P"), "png", "rgb"),
        (picture("PNG", "RGBA"), "png", "rgb"),
        (picture("JPEG", "RGB"), "jpeg", "rgb"),
        (picture("JPEG", "CMYK"), "jpeg", "rgb"),
        (picture("WEBP", "RGB"), "webp", "rgb"),
        (tiff(np.zeros((1, 8, 8), np.uint16)), "tiff", "pan"),
        (tiff(np.zeros((3, 8, 8), np.uint8)), "tiff", "rgb"),
        (tiff(np.zeros((4, 8, 8), np.uint16)), "tiff", "ms"),
        (tiff(np.zeros((8, 8, 8), np.float32)), "tiff", "ms"),
        (tiff(np.zeros((8, 64, 64), np.float32), tiled=True, blockxsize=32, blockysize=32), "tiff", "ms"),
    ],
)
def test_kind_and_modality_are_told_by_the_bytes(data: bytes, kind: str, modality: str) -> None:
    media = image_media(data, NO_HINTS, LIMITS)
    assert (media.encoding, media.modality) == (kind, modality)
    assert decode_chip(media).pixels.shape[0] == len(decode_chip(media).bands)


def test_an_alpha_mask_of_a_tiff_is_no_near_infrared() -> None:
    image = np.full((4, 8, 8), 255, np.uint8)
    image[:3] = pixels("rgb", 0, 8)
    masked = tiff(image, photometric="RGB", ALPHA="YES")
    with rasterio.MemoryFile(masked) as memory, memory.open() as dataset:
        assert dataset.colorinterp[-1] is ColorInterp.alpha
    assert image_media(masked, NO_HINTS, LIMITS).modality == "rgb"


def test_hints_win_over_the_file() -> None:
    hints = ImageHints(bands=("g", "R", "NIR"), sensor="GF-1-PMS", gsd_m=8.0)
    media = image_media(png(pixels("rgb", 1)), hints, LIMITS)
    assert (media.modality, media.bands, media.sensor, media.gsd_m) == ("ms", ("green", "red", "nir"), "GF-1-PMS", 8.0)
    assert image_media(png(pixels("rgb", 1)), ImageHints(modality="pan"), LIMITS).modality == "pan"


def test_two_bands_need_their_modality_named() -> None:
    data = tiff(np.zeros((2, 8, 8), np.uint8))
    with pytest.raises(QueryError, match="modality=pan"):
        image_media(data, NO_HINTS, LIMITS)
    assert image_media(data, ImageHints(modality="ms"), LIMITS).modality == "ms"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"GIF89a" + bytes(40), 415),
        (b"<VRTDataset><SourceFilename>/etc/passwd</SourceFilename></VRTDataset>", 415),
        (b"#EXTM3U\nhttp://example.org/a.ts", 415),
        (b"%PDF-1.7", 415),
        (wav(tone(0)), 415),
    ],
)
def test_other_bytes_are_refused_as_images(data: bytes, status: int) -> None:
    with pytest.raises(ProblemError, match="expected") as caught:
        image_media(data, NO_HINTS, LIMITS)
    assert caught.value.status_code == status


@pytest.mark.parametrize("data", [png(pixels("rgb", 0))[:20], b"II*\0" + bytes(30), b"\xff\xd8\xff" + bytes(30)])
def test_a_broken_header_is_a_data_error(data: bytes) -> None:
    with pytest.raises(DataError, match="cannot be"):
        image_media(data, NO_HINTS, LIMITS)


def bomb(side_px: int) -> bytes:
    """A PNG of side x side zeros in a few kB: its size stands in the header."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side_px", [8_000, 12_000, 40_000])
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(side_px: int) -> None:
    with pytest.raises(ProblemError, match="image: seen") as caught:
        image_media(bomb(side_px), NO_HINTS, LIMITS)
    assert caught.value.status_code == 413


def test_a_tiff_of_too_many_samples_is_refused_by_its_header() -> None:
    data = tiff(np.zeros((5, 100, 100), np.uint8), compress="deflate")
    with pytest.raises(ProblemError, match="100 x 100 px, 5 bands") as caught:
        image_media(data, NO_HINTS, Limits(max_pixels=49_999))
    assert caught.value.status_code == 413


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (wav(tone(0)), "wav"),
        (wav(tone(0), "FLAC"), "flac"),
        (wav(tone(0), "OGG"), "ogg"),
        (wav(tone(0), "MP3"), "mp3"),
        (recorded("webm", "libopus"), "webm"),
        (recorded("ogg", "libopus"), "ogg"),
        (recorded("mp4", "aac"), "mp4"),
    ],
)
def test_sounds_of_every_kind_are_read(data: bytes, kind: str) -> None:
    media = speech_media(data, LIMITS)
    assert media.encoding == kind
    assert 0.2 < len(decode_speech(media)) / 16_000 < 0.7


@pytest.mark.parametrize(("data", "status"), [(b"", 400), (b"hello", 415), (png(pixels("pan", 0)), 415)])
def test_other_bytes_are_refused_as_speech(data: bytes, status: int) -> None:
    with pytest.raises(ProblemError, match="expected") as caught:
        speech_media(data, LIMITS)
    assert caught.value.status_code == status


def test_a_long_recording_is_refused_by_its_header() -> None:
    with pytest.raises(ProblemError, match=r"seen 3\.0 s, at most 2 s") as caught:
        speech_media(wav(tone(0, 3.0)), Limits(max_audio_s=2.0))
    assert caught.value.status_code == 413


@pytest.mark.parametrize(
    ("kind", "codec"),
    [("webm", "libopus"), ("ogg", "libopus"), ("mp4", "aac"), ("mp3", "libmp3lame"), ("wav", "pcm_s16le")],
)
def test_a_long_recording_is_refused_whatever_its_header_says(kind: str, codec: str) -> None:
    data = recorded(kind, codec)
    with pytest.raises(ProblemError, match=r"recording: seen 0\.\d s, at most 0\.25 s") as caught:
        decoded(SpeechBytes(data), Limits(max_audio_s=0.25))
    assert caught.value.status_code == 413
    assert decoded(SpeechBytes(data), Limits(max_audio_s=1)).modality == "speech"


def test_no_limit_of_seconds_is_above_what_the_decoder_takes() -> None:
    with pytest.raises(ValidationError, match="less than or equal to 30"):
        Limits(max_audio_s=31)
    with pytest.raises(ProblemError, match=r"seen 30\.\d s, at most 30 s") as caught:
        decoded(SpeechBytes(recorded("webm", "libopus", 30.5)), LIMITS)
    assert caught.value.status_code == 413


@pytest.mark.parametrize(
    "source",
    [
        *[ImageBytes(picture("PNG", mode), NO_HINTS) for mode in ("L", "1", "LA", "I;16", "P", "RGB", "RGBA")],
        ImageBytes(picture("JPEG", "CMYK"), NO_HINTS),
        ImageBytes(png(pixels("rgb", 1)), ImageHints(window=(2, 1, 5, 4))),
        ImageBytes(tiff(np.zeros((4, 8, 9), np.uint16)), NO_HINTS),
        ImageBytes(tiff(np.zeros((4, 8, 9), np.uint16)), ImageHints(window=(2, 1, 5, 4))),
        ImageBytes(tiff(np.zeros((3, 8, 9), np.float64)), NO_HINTS),
        ImageBytes(tiff(np.zeros((1, 8, 9), np.int8)), NO_HINTS),
        ImageBytes(tiff(np.zeros((1, 8, 9), np.uint32)), NO_HINTS),
    ],
)
def test_the_size_of_an_image_is_known_before_it_is_decoded(source: ImageBytes) -> None:
    sized = sized_media(source, LIMITS)
    num_bytes = len(raw_media_of(sized.media, LIMITS).data)
    assert num_bytes <= sized.num_bytes <= 2 * num_bytes


@pytest.mark.parametrize("data", [wav(tone(0), "FLAC", 8000), wav(tone(0), "OGG", 44_100), recorded("webm", "libopus")])
def test_the_size_of_a_recording_is_known_before_it_is_decoded(data: bytes) -> None:
    sized = sized_media(SpeechBytes(data), LIMITS)
    assert len(raw_media_of(sized.media, LIMITS).data) <= sized.num_bytes <= 4 * (16_000 * LIMITS.max_audio_s + 1)


SCENE = np.random.default_rng(0).integers(0, 2000, (4, 256, 512), dtype=np.uint16)
BLOCKS = {"tiled": True, "blockxsize": 64, "blockysize": 64}


@pytest.mark.parametrize("window", [(0, 0, 512, 256), (100, 40, 64, 32), (511, 255, 1, 1)])
def test_a_window_of_a_scene_is_the_same_as_the_part_cut_out(window: tuple[int, int, int, int]) -> None:
    column, row, width, height = window
    part = SCENE[:, row : row + height, column : column + width]
    chip = decode_chip(image_media(tiff(SCENE, **BLOCKS), ImageHints(window=window), LIMITS))
    np.testing.assert_array_equal(chip.pixels, part)
    assert chip.gsd_m == 2
    assert chip.georeference is not None
    assert chip.georeference.transform[2::3] == (5e5 + 2 * column, 5e6 - 2 * row)


def test_a_window_of_a_picture_is_cut_from_it() -> None:
    image = pixels("rgb", 3)
    media = image_media(png(image), ImageHints(window=(2, 1, 5, 4)), LIMITS)
    np.testing.assert_array_equal(decode_chip(media).pixels, image[:, 1:5, 2:7])


def test_a_scene_over_the_limit_is_asked_by_a_window_of_its_tiles() -> None:
    data, limits = tiff(SCENE, **BLOCKS), Limits(max_pixels=4 * 64 * 64)
    with pytest.raises(ProblemError) as refused:
        image_media(data, NO_HINTS, limits)
    assert refused.value.status_code == 413
    media = image_media(data, ImageHints(window=(200, 100, 64, 64)), limits)
    np.testing.assert_array_equal(decode_chip(media).pixels, SCENE[:, 100:164, 200:264])
    in_one_block = tiff(SCENE, tiled=True, blockxsize=512, blockysize=256)  # decoded whole for any part of it
    for bad, hints in ((data, ImageHints(window=(0, 0, 65, 64))), (in_one_block, ImageHints(window=(0, 0, 8, 8)))):
        with pytest.raises(ProblemError) as refused:
            image_media(bad, hints, limits)
        assert refused.value.status_code == 413


@pytest.mark.parametrize("window", [(500, 0, 13, 8), (0, 250, 8, 7), (0, 0, 0, 8), (10**8, 0, 1, 1)])
@pytest.mark.parametrize("data", [tiff(SCENE, **BLOCKS), png(SCENE[:1].astype(np.uint8))])
def test_a_window_outside_the_image_is_refused(data: bytes, window: tuple[int, int, int, int]) -> None:
    with pytest.raises(DataError, match=r"window lies outside the image: seen \d+ x \d+ px from column \d+.*512 x 256"):
        image_media(data, ImageHints(window=window), LIMITS)
