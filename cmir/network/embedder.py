"""Media -> unit vectors f32[N,D]: the only embedding code, for the job, the evaluation and the service.

Three steps that may run in three places: `pre` decodes (CPU, any thread), `core` runs the network (the device), `post`
hands numbers back. A vector does not depend on its batch-mates: items are batched only with items of the same form (a
chip's modality, shape, dtype, bands and sensor; an utterance's padded length), padding is fixed by the item itself, and
no layer of the network looks across a batch.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor

from cmir.archive import shards
from cmir.archive.imagery import Chip, decode_chip
from cmir.archive.raster import NATIVE_DTYPES, Pixels
from cmir.archive.raw_chips import RawChips, raw_chips
from cmir.archive.schema import Media, Modality
from cmir.archive.speech import decode_features, decode_speech
from cmir.errors import ConfigError, DataError
from cmir.network.bundle import Bundle, load_bundle
from cmir.network.hearing import Heard, hear
from cmir.network.precision import lay_channels_last

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16"]
F32 = NDArray[np.float32]

# Native values (pixels or samples) sent to the device at once: 64 MB in float32, about 85 chips of 256 x 256 x 3.
_MAX_BATCH_VALUES: Final = 2**24
_TORCH_DTYPES: Final = {name: getattr(torch, name) for name in NATIVE_DTYPES}


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A decoded item; items of equal `form` can stand in one batch."""

    modality: Modality
    content: Chip | F32
    form: Hashable


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedTable:
    """What came of a table's rows: `vectors` f32[N,D], zeros for the rows of `errors`, which says why."""

    vectors: F32
    errors: dict[int, DataError]


class Embedder:
    """A bundle made ready on a device. Safe to use from several threads at once.

    On CUDA, `bf16` runs the towers in bfloat16 and channels-last, `fp32` turns TensorFloat-32 off in this process; on
    CPUs everything is float32.
    """

    def __init__(
        self, bundle: Bundle, *, device: Device = "auto", precision: Precision = "fp32", max_batch: int | None = None
    ) -> None:
        self.bundle = bundle
        self.device = resolve_device(device)
        self.precision: Precision = precision if self.device.type == "cuda" else "fp32"
        self.max_batch = max_batch or (256 if self.device.type == "cuda" else 64)
        self.prototypes: F32 = bundle.net.unit_prototypes().detach().cpu().numpy()
        self._net = bundle.net.to(self.device)
        self.layout = torch.channels_last if self.precision == "bf16" else torch.contiguous_format
        if self.device.type == "cuda" and self.precision == "fp32":
            torch.backends.cudnn.allow_tf32 = False  # on by default; would move vectors by 1e-3
        if self.precision == "bf16":
            lay_channels_last(self._net)

    @classmethod
    def open(
        cls,
        bundle_uri: str,
        *,
        device: Device = "auto",
        precision: Precision = "fp32",
        max_batch: int | None = None,
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

    def autocast(self) -> torch.autocast:
        """The context in which the network computes in this embedder's number format."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    @property
    def labels(self) -> tuple[str, ...]:
        """The words that `prototypes` f32[L,D] stand for, in its order."""
        return self.bundle.config.network.labels

    @property
    def metrics(self) -> Mapping[str, JsonValue]:
        """The bundle's figures, as metrics.json has them."""
        return self.bundle.metrics

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
        with torch.inference_mode(), self.autocast():
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

    def embed_table(self, table: pa.Table, *, on_chip: Callable[[int, Chip], object] | None = None) -> EmbeddedTable:
        """The vectors of a SHARD_SCHEMA table's rows; a bad row does not stop the others.

        Raw chips of one form go to the device as one array; the device works while the next rows are made ready, and
        is waited for once, at the end. `on_chip` is told row and chip of every row that shows one.
        """
        vectors = torch.zeros(len(table), self.dim, device=self.device)
        errors: dict[int, DataError] = {}
        start = 0
        while start < len(table):
            part = table.slice(start, self._num_rows_at_once(table, start))
            stacked = raw_chips(part)
            if stacked is None or not self._can_read(stacked):
                self._embed_items(part, start, vectors, errors, on_chip)
            else:
                vectors[start : start + len(part)] = self._encode_stacked(stacked)
                for i in range(len(part) if on_chip else 0):
                    on_chip(start + i, stacked.chip(i))  # type: ignore[misc]
            start += len(part)
        numbers = self.post(vectors)
        for row in np.flatnonzero(~np.isfinite(numbers).all(axis=1)).tolist():
            errors[row] = _not_finite(shards.media_of(table, row))
        numbers[list(errors)] = 0.0
        return EmbeddedTable(numbers, errors)

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

    def _num_rows_at_once(self, table: pa.Table, start: int) -> int:
        """At most `max_batch` rows and about `_MAX_BATCH_VALUES` values, by the size of the first."""
        num_bytes = len(table["data"][start].as_buffer())
        return max(1, min(self.max_batch, _MAX_BATCH_VALUES // max(1, num_bytes)))

    def _can_read(self, stacked: RawChips) -> bool:
        """Whether the network reads chips like these; each of those that it does not is given its reason by itself."""
        if stacked.modality not in self.modalities:
            return False
        try:
            self.bundle.preprocessing.reading(stacked.modality, stacked.first)
        except DataError:
            return False
        return True

    def _encode_stacked(self, stacked: RawChips) -> Tensor:
        """Vectors f32[N,D] on the device; on CUDA this returns before they are computed."""
        preprocessing, modality = self.bundle.preprocessing, stacked.modality
        reading = preprocessing.reading(modality, stacked.first)
        with torch.inference_mode(), self.autocast():
            pixels = preprocessing.stacked_input(modality, self._on_device(stacked.pixels), reading)
            conditions = preprocessing.stacked_conditions(reading, stacked.gsd_m)
            return self._encode_pixels(modality, pixels, conditions).float()

    def _on_device(self, pixels: Pixels) -> Tensor:
        """A copy of native pixels on the device; to CUDA from pinned memory, beside what runs there."""
        if self.device.type != "cuda":
            return torch.from_numpy(pixels.copy())
        staged = torch.empty(pixels.shape, dtype=_TORCH_DTYPES[pixels.dtype.name], pin_memory=True)
        np.copyto(staged.numpy(), pixels)
        return staged.to(self.device, non_blocking=True)

    def _embed_items(
        self,
        part: pa.Table,
        start: int,
        vectors: Tensor,
        errors: dict[int, DataError],
        on_chip: Callable[[int, Chip], object] | None,
    ) -> None:
        """Rows one by one as far as decoding goes: encoded files, sound, bad ones."""
        good: list[Prepared] = []
        places: list[int] = []
        for row, media in enumerate(shards.medias(part), start):
            try:
                good.append(self.pre(media))
                places.append(row)
            except DataError as error:
                errors[row] = error
                continue
            content = good[-1].content
            if on_chip is not None and isinstance(content, Chip):
                on_chip(row, content)
        if good:
            vectors[places] = self.core(good)

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

    def _encode_pixels(self, modality: Modality, pixels: Tensor, conditions: tuple[Tensor, Tensor]) -> Tensor:
        wavelength_nm, gsd_m = (told.to(self.device, non_blocking=True) for told in conditions)
        return self._net.encode_image(modality, pixels.contiguous(memory_format=self.layout), wavelength_nm, gsd_m)

    def _encode(self, batch: Sequence[Prepared]) -> Tensor:
        preprocessing, modality = self.bundle.preprocessing, batch[0].modality
        chips = [item.content for item in batch if isinstance(item.content, Chip)]
        if chips:
            pixels = preprocessing.image_input(modality, chips, device=self.device)
            return self._encode_pixels(modality, pixels, preprocessing.conditions(modality, chips))
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
