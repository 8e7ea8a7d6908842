"""Recorded speech, in any form an item or a request carries it -> mono waveform f32[T] at 16 kHz, samples in [-1, 1].

libsndfile (soundfile) reads wav, flac, ogg and mp3; FFmpeg (PyAV) what a browser or a telephone records and libsndfile
does not read: webm/opus, mp4/aac. The bytes decide, not the name of the encoding. A file that was cut short is refused
rather than searched with half a word; streamed files, whose header does not know their length, are read to their end.
"""

import io
import math
import struct
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cmir.archive.schema import Media
from cmir.errors import DataError

SAMPLE_RATE_HZ: Final = 16_000
MAX_SECONDS: Final = 30.0
PCM_FULL_SCALE: Final = {"int16": 32_768.0, "int32": 2_147_483_648.0}
_RATE_RANGE_HZ: Final = (4_000, 384_000)
_UNKNOWN_LENGTHS: Final = (0, 0x7FFFFFFF, 0xFFFFFFFF)  # of a RIFF or data chunk whose writer could not seek back

F32 = npt.NDArray[np.float32]


class LongSpeechError(DataError):
    """A recording longer than is taken."""


def decode_speech(media: Media, *, max_seconds: float = MAX_SECONDS) -> F32:
    """Speech as f32[T], mono, 16 kHz, samples in [-1, 1]; channels are averaged, other rates resampled.

    Raises LongSpeechError where it is longer than `max_seconds`, whatever its header says; DataError: not audio, cut
    short, no sample, NaN or infinite samples, a rate outside 4..384 kHz, or features instead of a waveform.
    """
    if is_features(media):
        raise DataError("cannot decode speech", seen="a feature vector", expected="a waveform or an audio file")
    if media.encoding == "raw":
        samples, rate_hz = _raw_samples(media)
    else:
        samples, rate_hz = _file_samples(media.data, max_seconds)
    return _to_16k(_mono_within_limits(samples, rate_hz, max_seconds), rate_hz)


def file_media(data: bytes) -> Media:
    """An audio file as media: its own bytes where the shard format names their encoding, else its samples at 16 kHz.

    Keeping the bytes makes an item's vector the one that the same file gets as a query. Raises DataError as
    `decode_speech` does, so that what is stored can be read.
    """
    samples, rate_hz = _file_samples(data, MAX_SECONDS)
    waveform = _to_16k(_mono_within_limits(samples, rate_hz, MAX_SECONDS), rate_hz)
    encoding = _stored_encoding(data)
    if encoding is not None:
        return Media(modality="speech", data=data, encoding=encoding, sample_rate_hz=rate_hz)
    return Media(
        modality="speech",
        data=waveform.astype("<f4").tobytes(),
        encoding="raw",
        dtype="float32",
        shape=waveform.shape,
        sample_rate_hz=SAMPLE_RATE_HZ,
    )


def is_features(media: Media) -> bool:
    """Whether an item of modality speech carries a feature vector f32[F] instead of a waveform."""
    return media.encoding == "raw" and media.dtype == "float32" and media.sample_rate_hz is None


def decode_features(media: Media) -> F32:
    """A feature vector as f32[F]. Raises DataError: a waveform, a wrong size, or NaN or infinite values."""
    if not is_features(media):
        raise DataError(
            "cannot read speech features",
            seen=f"{media.encoding} {media.dtype} at {media.sample_rate_hz} Hz",
            expected="raw float32 without a sample rate",
        )
    features = _raw_array(media, "float32").astype(np.float32)
    if not np.isfinite(features).all():
        raise DataError("cannot read speech features", seen="NaN or infinite values", expected="finite values")
    return features


def pcm_media(waveform: F32) -> Media:
    """A 16 kHz waveform f32[T] in [-1, 1] as raw int16 samples."""
    samples = np.round(np.clip(waveform, -1.0, 1.0) * 32_767.0).astype("<i2")
    return Media(
        modality="speech",
        data=samples.tobytes(),
        encoding="raw",
        dtype="int16",
        shape=samples.shape,
        sample_rate_hz=SAMPLE_RATE_HZ,
    )


def resample(waveform: F32, rate_hz: int, to_rate_hz: int = SAMPLE_RATE_HZ) -> F32:
    """f32[T] at `rate_hz` -> f32[T * to_rate_hz / rate_hz], band-limited (polyphase filter, Kaiser window)."""
    from scipy.signal import resample_poly  # late: 0.3 s, and most items are at 16 kHz already

    if rate_hz == to_rate_hz:
        return waveform
    common = math.gcd(rate_hz, to_rate_hz)
    resampled: F32 = resample_poly(waveform, to_rate_hz // common, rate_hz // common)
    return resampled.astype(np.float32, copy=False)


def _to_16k(waveform: F32, rate_hz: int) -> F32:
    peak = float(np.abs(waveform).max())
    scaled = waveform / np.float32(peak) if peak > 1.0 else waveform  # a float file may carry integers' scale
    return np.clip(resample(scaled, rate_hz), -1.0, 1.0).astype(np.float32, copy=False)


def _mono_within_limits(samples: npt.NDArray[Any], rate_hz: int, max_seconds: float) -> F32:
    """f32[T,channels] -> f32[T], after the checks that hold for speech from anywhere."""
    low_hz, high_hz = _RATE_RANGE_HZ
    if not low_hz <= rate_hz <= high_hz:
        raise DataError("cannot use speech", seen=f"{rate_hz} Hz", expected=f"a rate of {low_hz}..{high_hz} Hz")
    if samples.size == 0:
        raise DataError("cannot use speech", seen="no samples", expected="at least one")
    _refuse_longer(samples.shape[0], rate_hz, max_seconds)
    mono: F32 = samples.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise DataError("cannot use speech", seen="NaN or infinite samples", expected="finite samples")
    return mono


def _refuse_longer(num_samples: int, rate_hz: int, max_seconds: float) -> None:
    if num_samples > max_seconds * rate_hz:
        raise LongSpeechError(
            "cannot use speech",
            seen=f"{num_samples / rate_hz:.1f} s",
            expected=f"at most {max_seconds:g} s",
            fix="cut it into single utterances",
        )


def _raw_samples(media: Media) -> tuple[npt.NDArray[np.float32], int]:
    if media.sample_rate_hz is None:
        raise DataError("cannot decode raw speech", seen="no sample_rate_hz", expected="its sample rate in Hz")
    dtype = media.dtype or "none"
    if dtype not in ("float32", *PCM_FULL_SCALE):
        raise DataError("cannot decode raw speech", seen=f"dtype {dtype}", expected="int16, int32 or float32")
    samples = _raw_array(media, dtype).astype(np.float32) / np.float32(PCM_FULL_SCALE.get(dtype, 1.0))
    return samples[:, None], media.sample_rate_hz


def _raw_array(media: Media, dtype: str) -> npt.NDArray[Any]:
    """Raw data (T,) or (F,) in its own dtype."""
    width = np.dtype(dtype).itemsize
    if media.shape is None or len(media.shape) != 1 or media.shape[0] * width != len(media.data):
        raise DataError(
            "raw speech does not fit its shape",
            seen=f"{len(media.data)} bytes, shape {media.shape}",
            expected=f"(T,) of {dtype}, {width} bytes each",
        )
    return np.frombuffer(media.data, dtype=np.dtype(dtype).newbyteorder("<"))


def _file_samples(data: bytes, max_seconds: float) -> tuple[npt.NDArray[np.float32], int]:
    """The bytes of an audio file -> f32[T,channels] and its rate."""
    import soundfile  # late: not needed for raw samples

    if not data:
        raise DataError("cannot decode speech", seen="0 bytes", expected="an audio file")
    _refuse_cut_riff(data)
    _refuse_cut_ogg(data)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if 0 < file.frames < 2**40:  # a length that the header does not know reads as a huge one
                _refuse_longer(file.frames, file.samplerate, max_seconds)
            samples = file.read(int(max_seconds * file.samplerate) + 1, dtype="float32", always_2d=True)
            _refuse_missing(len(samples), file.frames, file.format, data)
            return samples, file.samplerate
    except soundfile.LibsndfileError as error:
        if data[:4] in (b"RIFF", b"RF64", b"fLaC"):  # a kind it reads: no second opinion from a more lenient reader
            raise DataError("cannot decode speech", seen=str(error), expected="a whole audio file") from error
        return _ffmpeg_samples(data, max_seconds)


def _stored_encoding(data: bytes) -> str | None:
    """The shard format's name of a file's encoding, by its first bytes; None for those it has no name for."""
    if data[:4] == b"RIFF":
        return "wav"
    if data[:3] == b"ID3" or (data[0] == 0xFF and data[1:2] >= b"\xe0"):  # a tag, or an MPEG frame's sync word
        return "mp3"
    return {b"fLaC": "flac", b"OggS": "ogg"}.get(data[:4])


def _refuse_missing(num_read: int, num_promised: int, kind: str, data: bytes) -> None:
    """A header that counts the samples must be right; of an mp3 only one that an encoder's Xing tag counts does."""
    counted = kind in ("FLAC", "WAV", "WAVEX", "AIFF") or (
        kind == "MP3" and (b"Xing" in data[:4096] or b"Info" in data[:4096])
    )
    if counted and num_read < num_promised < 2**40:
        raise DataError("speech is cut short", seen=f"{num_read} samples", expected=f"the {num_promised} of its header")


def _refuse_cut_riff(data: bytes) -> None:
    """libsndfile reads what is there of a wav and says nothing: compare the chunks' lengths with the bytes here."""
    if data[:4] != b"RIFF":
        return
    offset = 12
    while offset + 8 <= len(data):
        name, length = data[offset : offset + 4], struct.unpack_from("<I", data, offset + 4)[0]
        if name == b"data" and length in _UNKNOWN_LENGTHS:
            return
        if offset + 8 + length > len(data):
            seen = f"{len(data) - offset - 8} bytes of chunk {name.decode('latin-1')!r}"
            raise DataError("wav file is cut short", seen=seen, expected=f"{length} bytes")
        if name == b"data":
            return
        offset += 8 + length + length % 2
    raise DataError("wav file is cut short", seen=f"{len(data)} bytes without a data chunk", expected="a data chunk")


def _refuse_cut_ogg(data: bytes) -> None:
    """The last page of an Ogg stream must be whole: its table of segments tells its length (RFC 3533, section 6)."""
    last = data.rfind(b"OggS")
    if data[:4] != b"OggS":
        return
    num_segments = data[last + 26] if last + 26 < len(data) else 255
    page = 27 + num_segments + sum(data[last + 27 : last + 27 + num_segments])
    if last + page > len(data):
        raise DataError("ogg file is cut short", seen=f"{len(data) - last} bytes of a page", expected=f"{page} bytes")


def _ffmpeg_samples(data: bytes, max_seconds: float) -> tuple[npt.NDArray[np.float32], int]:
    """Any container and codec of FFmpeg -> f32[T,channels] and its rate; stops where the limit is passed.

    The channels are kept: FFmpeg's own way to mono adds them at 0.7 each, not their mean.
    """
    import av
    import av.error

    blocks: list[npt.NDArray[np.float32]] = []
    num_samples = 0
    try:
        with av.open(io.BytesIO(data)) as container:
            stream = next(iter(container.streams.audio), None)
            if stream is None or stream.codec_context is None:  # the header may be whole and name no codec
                raise DataError("cannot decode speech", seen="a file without sound", expected="an audio file")
            rate_hz = int(stream.codec_context.sample_rate or 0)
            to_float = av.AudioResampler(format="fltp")
            for frame in container.decode(stream):
                num_samples += frame.samples
                _refuse_longer(num_samples, rate_hz, max_seconds)
                blocks += [part.to_ndarray().T for part in to_float.resample(frame)]
            blocks += [part.to_ndarray().T for part in to_float.resample(None)] if blocks else []
    except (av.error.FFmpegError, ValueError) as error:
        seen = f"{len(data)} bytes starting with {data[:8]!r}"
        raise DataError("cannot decode speech", seen=seen, expected="wav, flac, ogg, mp3, webm or mp4") from error
    return np.concatenate(blocks) if blocks else np.zeros((0, 1), np.float32), rate_hz
