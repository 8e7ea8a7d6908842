"""Bytes of speech in any form become the same waveform; what is broken is refused with its reason."""

import io
import os
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from cmir.archive.schema import Media
from cmir.archive.speech import MAX_SECONDS, decode_features, decode_speech, file_media, pcm_media, resample
from cmir.errors import DataError


def tone(seconds: float = 0.5, rate_hz: int = 16_000, frequency_hz: float = 440.0, level: float = 0.5) -> np.ndarray:
    """A sine f32[T]."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return (level * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)


def encoded(samples: np.ndarray, rate_hz: int, kind: str, subtype: str | None = None) -> bytes:
    """Samples f32[T] or f32[T,channels] as an audio file of libsndfile."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=kind, subtype=subtype)
    return buffer.getvalue()


def recorded(samples: np.ndarray, container: str, codec: str, rate_hz: int = 48_000) -> bytes:
    """Samples f32[T] or f32[T,2] as a browser records them: webm/opus, mp4/aac."""
    buffer = io.BytesIO()
    layout = "mono" if samples.ndim == 1 else "stereo"
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate_hz, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate = rate_hz
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    return buffer.getvalue()


def file(data: bytes) -> Media:
    return Media(modality="speech", data=data, encoding="wav")


def peak_hz(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(np.argmax(spectrum)) * 16_000 / len(waveform)


@pytest.mark.parametrize(
    ("kind", "rate_hz", "tolerance"),
    [("WAV", 16_000, 1e-4), ("WAV", 8_000, 0.02), ("FLAC", 44_100, 0.02), ("OGG", 44_100, 0.1), ("MP3", 22_050, 0.1)],
)
def test_files_become_16_khz_mono(kind: str, rate_hz: int, tolerance: float) -> None:
    waveform = decode_speech(file(encoded(tone(rate_hz=rate_hz), rate_hz, kind)))
    assert waveform.dtype == np.float32
    assert abs(len(waveform) - 8_000) <= (1_200 if kind == "MP3" else 1)
    assert abs(peak_hz(waveform[500:7_500]) - 440) < 5
    assert np.abs(waveform[500:7_500]).max() == pytest.approx(0.5, abs=tolerance)


@pytest.mark.parametrize(("container", "codec"), [("webm", "libopus"), ("mp4", "aac"), ("adts", "aac")])
def test_browser_recordings_are_read(container: str, codec: str) -> None:
    waveform = decode_speech(file(recorded(tone(1.0, 48_000), container, codec)))
    assert abs(len(waveform) - 16_000) < 1_600
    assert abs(peak_hz(waveform[2_000:14_000]) - 440) < 5
    level = np.sqrt(np.square(waveform[2_000:14_000]).mean())
    assert level == pytest.approx(0.5 / np.sqrt(2), rel=0.02)


def test_both_channels_of_a_recording_are_averaged() -> None:
    both = np.stack([tone(1.0, 48_000), tone(1.0, 48_000)], axis=1)
    waveform = decode_speech(file(recorded(both, "webm", "libopus")))
    assert np.sqrt(np.square(waveform[2_000:14_000]).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)


def test_channels_are_averaged_and_raw_samples_keep_their_scale() -> None:
    stereo = np.stack([tone(), np.zeros(8_000, np.float32)], axis=1)
    np.testing.assert_allclose(decode_speech(file(encoded(stereo, 16_000, "WAV", "FLOAT"))), tone() / 2, atol=1e-6)
    np.testing.assert_allclose(decode_speech(pcm_media(tone())), tone(), atol=1e-4)
    raw = Media("speech", tone().tobytes(), "raw", "float32", (8_000,), sample_rate_hz=16_000)
    np.testing.assert_array_equal(decode_speech(raw), tone())


def test_samples_beyond_full_scale_are_scaled_down() -> None:
    waveform = decode_speech(file(encoded(tone(level=0.5) * 8, 16_000, "WAV", "FLOAT")))
    np.testing.assert_allclose(waveform, tone(level=1.0), atol=1e-3)


def test_resampling_keeps_a_tone_and_drops_what_does_not_fit() -> None:
    assert abs(peak_hz(resample(tone(1.0, 44_100, 3_000), 44_100)) - 3_000) < 2
    assert np.abs(resample(tone(1.0, 48_000, 15_000), 48_000)[1_000:-1_000]).max() < 0.01
    assert len(resample(tone(1.0, 16_001), 16_001)) == 16_000


def test_a_wav_of_unknown_length_is_read_to_its_end() -> None:
    data = bytearray(encoded(tone(), 16_000, "WAV", "PCM_16"))
    struct.pack_into("<I", data, 4, 0xFFFFFFFF)
    struct.pack_into("<I", data, data.index(b"data") + 4, 0xFFFFFFFF)
    np.testing.assert_allclose(decode_speech(file(bytes(data))), tone(), atol=1e-4)


WAV = encoded(tone(), 16_000, "WAV", "PCM_16")
FLAC = encoded(tone(), 16_000, "FLAC")
NOISE = np.random.default_rng(0).normal(scale=0.1, size=16_000).astype(np.float32)
OGG, MP3 = encoded(NOISE, 16_000, "OGG"), encoded(NOISE, 16_000, "MP3")
NAN = np.where(np.arange(8_000) == 100, np.nan, tone()).astype(np.float32)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (WAV[:30], "cut short"),
        (WAV[:40], "cut short"),
        (WAV[:44], "cut short: seen 0 bytes of chunk 'data', expected 16000"),
        (WAV[:5_000], "cut short: seen 4956 bytes of chunk 'data', expected 16000"),
        (FLAC[: len(FLAC) // 2], "cannot decode speech|cut short"),
        (OGG[: len(OGG) // 2], "ogg file is cut short"),
        (OGG[:-5], "ogg file is cut short"),
        (MP3[: len(MP3) // 2], "speech is cut short: seen .* expected the 16000 of its header"),
        (recorded(tone(1.0, 48_000), "webm", "libopus")[:60], "cannot decode speech"),
        (recorded(tone(1.0, 48_000), "mp4", "aac")[:-200], "cannot decode speech"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "cannot decode speech"),
        (b"not audio at all", "cannot decode speech"),
        (encoded(np.zeros(0, np.float32), 16_000, "WAV"), "no samples"),
        (encoded(NAN, 16_000, "WAV", "FLOAT"), "NaN or infinite"),
        (encoded(np.zeros(1_000, np.float32), 2_000, "WAV"), "2000 Hz, expected a rate of 4000..384000 Hz"),
    ],
)  # fmt: skip
def test_broken_files_are_refused_with_their_reason(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode_speech(file(data))


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_long_files_are_refused(kind: str) -> None:
    data = encoded(np.zeros(round((MAX_SECONDS + 1) * 8_000), np.float32), 8_000, kind)
    with pytest.raises(DataError, match=r"31\.0 s, expected at most 30 s"):
        decode_speech(file(data))


def test_long_recordings_are_refused() -> None:
    with pytest.raises(DataError, match="expected at most 30 s"):
        decode_speech(file(recorded(np.zeros(31 * 48_000, np.float32), "webm", "libopus")))


@pytest.mark.parametrize(
    ("media", "message"),
    [
        (Media("speech", bytes(10), "raw", "int16", (4,), sample_rate_hz=16_000), r"10 bytes, shape \(4,\)"),
        (Media("speech", bytes(8), "raw", "int16", (2, 2), sample_rate_hz=16_000), "does not fit its shape"),
        (Media("speech", bytes(8), "raw", "int16", (4,)), "no sample_rate_hz"),
        (Media("speech", bytes(8), "raw", "uint8", (8,), sample_rate_hz=16_000), "dtype uint8"),
        (Media("speech", b"", "raw", "int16", (0,), sample_rate_hz=16_000), "no samples"),
        (Media("speech", bytes(16), "raw", "float32", (4,)), "a feature vector, expected a waveform"),
    ],
)
def test_raw_samples_that_do_not_fit_are_refused(media: Media, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode_speech(media)


def test_feature_vectors_are_read_and_checked() -> None:
    vector = np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(decode_features(Media("speech", vector.tobytes(), "raw", "float32", (5,))), vector)
    with pytest.raises(DataError, match="expected raw float32 without a sample rate"):
        decode_features(pcm_media(tone()))
    with pytest.raises(DataError, match="NaN or infinite values"):
        decode_features(Media("speech", (vector * np.nan).astype(np.float32).tobytes(), "raw", "float32", (5,)))


def test_a_file_is_stored_as_it_came_or_as_samples() -> None:
    for kind, encoding in (("WAV", "wav"), ("FLAC", "flac"), ("OGG", "ogg"), ("MP3", "mp3")):
        data = encoded(tone(rate_hz=8_000), 8_000, kind)
        assert file_media(data) == Media("speech", data, encoding, sample_rate_hz=8_000)
    data = recorded(tone(1.0, 48_000), "webm", "libopus")
    media = file_media(data)
    assert (media.encoding, media.dtype, media.sample_rate_hz) == ("raw", "float32", 16_000)
    np.testing.assert_array_equal(decode_speech(media), decode_speech(file(data)))


@pytest.mark.realdata
def test_recordings_of_people_are_read() -> None:
    root = os.environ.get("CMIR_REAL_DATA")
    if not root:
        pytest.skip("CMIR_REAL_DATA is not set: no recordings of people here")
    files = [path for path in sorted(Path(root, "speech").rglob("*")) if path.suffix in (".wav", ".ogg")][::10]
    assert files
    for path in files:
        waveform = decode_speech(file(path.read_bytes()))
        assert 0.1 < len(waveform) / 16_000 < 5
        assert np.abs(waveform).max() > 0.02
