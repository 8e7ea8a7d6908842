"""A bundle's settings and figures -> its README.md: what it is, training data, figures, use and limits."""

from collections.abc import Iterator, Mapping
from typing import Final

from pydantic import JsonValue

from cmir.network.preprocessing import Preprocessing
from cmir.network.space import BundleConfig

_MAX_METRICS: Final = 60
_MAX_FORMS: Final = 80
_KINDS: Final = {
    "pan": "panchromatic chips",
    "ms": "multispectral chips",
    "rgb": "very-high-resolution RGB chips",
    "speech": "spoken labels",
}


def model_card(config: BundleConfig, preprocessing: Preprocessing, metrics: Mapping[str, JsonValue]) -> str:
    """Markdown for a person who finds the bundle and knows nothing of it."""
    sections = [
        _summary(config),
        _training(config),
        _inputs(config, preprocessing),
        _figures(metrics),
        _use(config),
        _limits(config, preprocessing),
    ]
    return "\n\n".join(sections) + "\n"


def _summary(config: BundleConfig) -> str:
    kinds = ", ".join(_KINDS[name] for name in config.network.modalities)
    labels = ", ".join(entry.label for entry in config.vocabulary) or "none"
    return f"""# Shared embedding space `{config.space_id}`

One network that puts {kinds} into one space of {config.network.dim} dimensions, so that items of one modality find
items of another by cosine similarity.

| | |
|---|---|
| space_id | `{config.space_id}` |
| modalities | {", ".join(config.network.modalities)} |
| dimensions | {config.network.dim} |
| architecture | {config.network.architecture}{_pretrained(config)} |
| labels with a prototype | {labels} |
| made | {config.created_at}, cmir {config.code_version}, space code {config.space_code_version} |"""


def _pretrained(config: BundleConfig) -> str:
    network = config.network
    named = {"images": network.pretrained_image, "speech": network.pretrained_speech}
    towers = [f"{tower.family} for {kind}" for kind, tower in named.items() if tower is not None]
    return f", pretrained {' and '.join(towers)} (needs `pip install 'cmir[pretrained]'`)" if towers else ""


def _training(config: BundleConfig) -> str:
    lines = ["## Training data", ""]
    if config.data:
        lines += ["| modality | split | items |", "|---|---|---|"]
        lines += [f"| {count.modality} | {count.split} | {count.num_items:,} |" for count in config.data]
        lines += ["", "Statistics and weights come from the train split alone."]
    else:
        lines.append("Not recorded.")
    lines += ["", "## Training settings", ""]
    lines += [f"- {key}: {value}" for key, value in sorted(config.training.items())] or ["Not recorded."]
    return "\n".join(lines)


def _inputs(config: BundleConfig, preprocessing: Preprocessing) -> str:
    lines = ["## What goes in", "", "| modality | sensor | dtype | bands | resized to |", "|---|---|---|---|---|"]
    for entry in preprocessing.sensors:
        size_px = preprocessing.chip_size_px.get(entry.modality)
        bands = ", ".join(entry.band_names)
        sensor = entry.sensor or "any that is not named"
        lines.append(f"| {entry.modality} | {sensor} | {entry.dtype} | {bands} | {size_px} x {size_px} px |")
    if "speech" in config.network.modalities:
        what = "precomputed features" if preprocessing.features else f"mono, {preprocessing.sample_rate_hz} Hz"
        lines.append(f"| speech | | | {what} | the first {preprocessing.max_speech_s:g} s |")
    if 0 < sum(map(len, config.spoken_forms.values())) <= _MAX_FORMS:
        said = "; ".join(f"{label}: {', '.join(forms)}" for label, forms in config.spoken_forms.items())
        lines += ["", f"Said for each label in training: {said}."]
    return "\n".join(lines)


def _figures(metrics: Mapping[str, JsonValue]) -> str:
    rows = list(_numbers(metrics, ""))
    lines = ["## Figures", ""]
    if not rows:
        return "\n".join([*lines, "None measured yet: run `jobs/evaluate.py` on held-out items."])
    lines += ["| figure | value |", "|---|---|", *(f"| {name} | {value:.4g} |" for name, value in rows[:_MAX_METRICS])]
    if len(rows) > _MAX_METRICS:
        lines += ["", f"{len(rows) - _MAX_METRICS} more stand in `metrics.json`."]
    return "\n".join(lines)


def _numbers(value: JsonValue | Mapping[str, JsonValue], name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)


def _use(config: BundleConfig) -> str:
    modality = config.network.modalities[0]
    return f"""## How to use

    python jobs/embed.py --bundle THIS_FOLDER --shards SHARDS --gallery GALLERY
    python jobs/evaluate.py --bundle THIS_FOLDER --shards SHARDS --output REPORT

```python
from cmir.archive.schema import Media
from cmir.network.embedder import Embedder

embedder = Embedder.open("THIS_FOLDER")
vectors = embedder.embed([Media("{modality}", data, encoding)])  # f32[1,{config.network.dim}], length 1
```

Vectors of this space may only be compared with vectors of the same space_id. The folder holds tensors (safetensors) and
JSON, no code; loading it runs nothing."""


def _limits(config: BundleConfig, preprocessing: Preprocessing) -> str:
    lines = ["## Limits", ""]
    if preprocessing.sensors:
        lines.append(
            "- Chips of a sensor or dtype not in the table above are normalised by their own mean and deviation; "
            "expect weaker results. Other bands than those in the table are refused."
        )
        lines.append("- A chip is squeezed to a square; objects smaller than a few resized pixels are lost.")
    if "speech" in config.network.modalities:
        lines.append(
            "- Speech is understood as far as the labels above were spoken in training; it is no general recogniser. "
            f"What follows the first {preprocessing.max_speech_s:g} s is not heard."
        )
    if config.unspoken_labels:
        lines.append(
            f"- Cannot be found by voice, since nobody said them in training: {', '.join(config.unspoken_labels)}."
        )
    lines.append("- Similarity is learned from the labels and pairs of the training data, with their gaps and errors.")
    return "\n".join(lines)
