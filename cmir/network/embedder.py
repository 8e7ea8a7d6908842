"""Media -> unit vectors f32[N,D]: the only embedding code, for the job, the evaluation and the service.

Three steps that may run in three places: `pre` decodes (CPU, any thread), `core` runs the network (the device), `post`
hands numbers back. A vector does not depend on its batch-mates: items are batched only with items of the same form (a
chip's modality, shape, dtype, bands and sensor; an utterance's padded length), padding is fixed by the item itself, and
no layer of the network looks across a batch.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmir.archive.imagery import Chip, decode_chip
from cmir.archive.schema import Media, Modality
from cmir.archive.speech import decode_features, decode_speech
from cmir.errors import ConfigError, DataError
from cmir.network.bundle import Bundle, load_bundle
from cmir.network.hearing import Heard, hear

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16"]
F32 = NDArray[np.float32]

# Native values (pixels or samples) sent to the device at once: 64 MB in float32, about 85 chips of 256 x 256 x 3.
_MAX_BATCH_VALUES: Final = 2**24


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A decoded item; items of equal `form` can stand in one batch."""

    modality: Modality
    content: Chip | F32
    form: Hashable


class Embedder:
    """A bundle made ready on a device. Safe to use from several threads at once.

    On CUDA, `bf16` runs the towers in bfloat16 and channels-last, `fp32` turns TensorFloat-32 off in this process; on
    CPUs everything is float32.
    """

    def __init__(
        self, bundle: Bundle, *, device: Device = "auto", precision: Precision = "fp32", max_batch: int = 64
    ) -> None:
        self.bundle = bundle
        self.device = resolve_device(device)
        self.precision: Precision = precision if self.device.type == "cuda" else "fp32"
        self.max_batch = max_batch
        self.prototypes: F32 = bundle.net.unit_prototypes().detach().cpu().numpy()
        self._net = bundle.net.to(self.device)
        self._layout = torch.channels_last if self.precision == "bf16" else torch.contiguous_format
        if self.device.type == "cuda" and self.precision == "fp32":
            torch.backends.cudnn.allow_tf32 = False  # on by default; would move vectors by 1e-3
        if self.precision == "bf16":
            self._net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def open(
        cls,
        bundle_uri: str,
        *,
        device: Device = "auto",
        precision: Precision = "fp32",
        max_batch: int = 64,
        num_threads: int | None = None,
    ) -> "Embedder":
        """Load, verify and place a bundle.

        `num_threads` sets torch's threads for the whole process (default: left as they are). Raises as `load_bundle`
        does, and ConfigError for a device that is not there.
        """
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        return cls(load_bundle(bundle_uri), device=device, precision=precision, max_batch=max_batch)

    @property
    def space_id(self) -> str:
        """The name of the space the vectors belong to."""
        return self.bundle.space_id

    @property
    def dim(self) -> int:
        """Components of a vector."""
        return self.bundle.config.network.dim

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Modalities the network has a tower for."""
        return self.bundle.config.network.modalities

    @property
    def labels(self) -> tuple[str, ...]:
        """The words that `prototypes` f32[L,D] stand for, in its order."""
        return self.bundle.config.network.labels

    def hear(self, vector: F32) -> Heard | None:
        """Which labels the vector f32[D] of an utterance names; None where the bundle cannot tell."""
        return hear(vector, self.labels, self.prototypes, self.bundle.config.heard_threshold)

    def pre(self, media: Media) -> Prepared:
        """Decode one item. Raises DataError: unreadable bytes, wrong bands, a modality without a tower."""
        if media.modality not in self.modalities:
            raise DataError(
                "this bundle has no tower for the modality",
                seen=media.modality,
                expected=" or ".join(self.modalities),
                where=self.bundle.uri,
            )
        return self._pre_speech(media) if media.modality == "speech" else self._pre_image(media)

    def core(self, prepared: Sequence[Prepared]) -> Tensor:
        """Unit vectors f32[B,D] of decoded items, in their order, on the device."""
        vectors = torch.zeros(len(prepared), self.dim, device=self.device)
        bf16 = self.precision == "bf16"
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
            for rows in self._batches(prepared):
                vectors[rows] = self._encode([prepared[row] for row in rows]).float()
        return vectors

    def post(self, vectors: Tensor) -> F32:
        """The vectors as numbers on the CPU, f32[B,D]."""
        numbers: F32 = vectors.float().cpu().numpy()
        return numbers

    def embed(self, media: Sequence[Media]) -> F32:
        """Unit vectors f32[N,D] of items that must all be good. Raises the DataError of the first bad one."""
        results = self.embed_each(media)
        for result in results:
            if isinstance(result, DataError):
                raise result
        return np.stack(results) if results else np.zeros((0, self.dim), np.float32)  # type: ignore[arg-type]

    def embed_each(self, media: Sequence[Media]) -> list[F32 | DataError]:
        """For each item its unit vector f32[D], or why it has none; a bad item does not stop the others."""
        results: list[F32 | DataError] = []
        good: list[Prepared] = []
        for item in media:
            try:
                good.append(self.pre(item))
                results.append(np.zeros(0, np.float32))  # its place; filled below
            except DataError as error:
                results.append(error)
        places = [place for place, result in enumerate(results) if not isinstance(result, DataError)]
        for place, vector in zip(places, self.post(self.core(good)), strict=True):
            results[place] = vector if np.isfinite(vector).all() else _not_finite(media[place])
        return results

    def warm_up(self) -> None:
        """Run every tower once, so that the first request does not pay for allocation and kernel selection."""
        waiting: list[Prepared] = []
        for entry in self.bundle.preprocessing.sensors:
            size_px = self.bundle.preprocessing.chip_size_px[entry.modality]
            pixels = np.zeros((len(entry.bands), size_px, size_px), entry.dtype)
            centres = tuple(band.wavelength_nm for band in entry.bands)
            waiting.append(self._image(entry.modality, Chip(pixels, entry.band_names, centres, None, entry.sensor)))
        if "speech" in self.modalities and not self._takes_features:
            waiting.append(self._waveform(np.zeros(self.bundle.preprocessing.sample_rate_hz, np.float32)))
        self.core(waiting)

    @property
    def _takes_features(self) -> bool:
        return self.bundle.config.network.speech.kind == "features"

    def _pre_image(self, media: Media) -> Prepared:
        return self._image(media.modality, decode_chip(media))

    def _image(self, modality: Modality, chip: Chip) -> Prepared:
        self.bundle.preprocessing.reading(modality, chip)  # refuses bands the network cannot read
        kind = (modality, chip.pixels.shape, chip.pixels.dtype.name)
        return Prepared(modality, chip, (*kind, chip.bands, chip.wavelength_nm, chip.sensor))

    def _pre_speech(self, media: Media) -> Prepared:
        if self._takes_features:
            features = decode_features(media)
            expected = self.bundle.config.network.speech.input_dim
            if len(features) != expected:
                raise DataError("wrong number of speech features", seen=len(features), expected=expected)
            return Prepared("speech", features, ("features", len(features)))
        return self._waveform(decode_speech(media))

    def _waveform(self, waveform: F32) -> Prepared:
        return Prepared("speech", waveform, ("speech", self.bundle.preprocessing.bucket_samples(len(waveform))))

    def _batches(self, prepared: Sequence[Prepared]) -> Iterator[list[int]]:
        """Rows of equal form, at most `max_batch` and about `_MAX_BATCH_VALUES` values at a time."""
        groups: dict[Hashable, list[int]] = {}
        for row, item in enumerate(prepared):
            groups.setdefault(item.form, []).append(row)
        for rows in groups.values():
            content = prepared[rows[0]].content
            num_values = content.pixels.size if isinstance(content, Chip) else content.size
            size = max(1, min(self.max_batch, _MAX_BATCH_VALUES // max(1, num_values)))
            yield from (rows[start : start + size] for start in range(0, len(rows), size))

    def _encode(self, batch: Sequence[Prepared]) -> Tensor:
        preprocessing, modality = self.bundle.preprocessing, batch[0].modality
        chips = [item.content for item in batch if isinstance(item.content, Chip)]
        if chips:
            pixels = preprocessing.image_input(modality, chips, device=self.device)
            wavelength_nm, gsd_m = preprocessing.conditions(modality, chips)
            pixels = pixels.contiguous(memory_format=self._layout)
            return self._net.encode_image(modality, pixels, wavelength_nm.to(self.device), gsd_m.to(self.device))
        sounds = [item.content for item in batch if not isinstance(item.content, Chip)]
        if self._takes_features:
            features = preprocessing.feature_input(sounds, device=self.device)
            return self._net.encode_speech(features, torch.full((len(sounds),), features.shape[1], device=self.device))
        waveform, num_samples = preprocessing.speech_input(sounds, device=self.device)
        return self._net.encode_speech(waveform, num_samples)


def resolve_device(device: Device) -> torch.device:
    """`auto` is CUDA where there is one. Raises ConfigError for `cuda` where there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("no CUDA device", seen="cuda", expected="cpu or auto", fix="use --device auto")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def _not_finite(media: Media) -> DataError:
    return DataError(
        "embedding is not finite",
        seen=f"{media.modality} {media.encoding} {media.dtype or ''}".strip(),
        expected="values the network can compute with",
        fix="look for extreme values (nodata, float overflow) in the item",
    )
