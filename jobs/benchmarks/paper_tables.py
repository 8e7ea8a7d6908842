"""The published figures of CMIR-NET, and tables that set runs beside them; all in percent, as published.

Chaudhuri et al., "CMIR-NET", Pattern Recognition Letters 131:456-462, 2020, arXiv 1904.04794. What they call mAP is the
mean of precision at several cut-offs, here `mean_precision_at_k`, so it is that which stands beside their figures; true
average precision is beside it. Their figures saw test items in training: ours never do.
"""

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from cmir.archive.schema import Modality
from cmir.archive.sensors import GF1_PMS
from cmir.archive.shards import ShardFile
from cmir.archive.sources.dsrsid import LAND_COVERS
from cmir.evaluation.collection import list_items, metadata_of
from jobs.benchmarks.record import Findings

Scenario: TypeAlias = Literal["pan-ms", "image-speech"]

MODALITIES_OF: Final[dict[Scenario, tuple[Modality, Modality]]] = {
    "pan-ms": ("pan", "ms"),
    "image-speech": ("rgb", "speech"),
}
DIRECTIONS: Final[dict[Scenario, tuple[str, ...]]] = {
    "pan-ms": ("pan_to_ms", "ms_to_pan", "pan_to_pan", "ms_to_ms"),
    "image-speech": ("rgb_to_speech", "speech_to_rgb"),
}
# direction, dimension -> their mAP and P@10, in percent; DSRSID and UC Merced
PUBLISHED: Final[dict[tuple[str, int], tuple[float, float]]] = {
    ("pan_to_ms", 16): (95.52, 97.10),
    ("pan_to_ms", 32): (98.96, 98.99),
    ("pan_to_ms", 64): (99.05, 99.40),
    ("ms_to_pan", 16): (98.77, 99.00),
    ("ms_to_pan", 32): (97.95, 97.99),
    ("ms_to_pan", 64): (98.93, 98.60),
    ("pan_to_pan", 16): (99.41, 99.82),
    ("pan_to_pan", 32): (98.11, 98.40),
    ("pan_to_pan", 64): (98.69, 99.40),
    ("ms_to_ms", 16): (99.55, 99.69),
    ("ms_to_ms", 32): (98.18, 98.60),
    ("ms_to_ms", 64): (98.25, 98.40),
    ("rgb_to_speech", 32): (29.67, 60.91),
    ("rgb_to_speech", 64): (41.60, 63.15),
    ("rgb_to_speech", 128): (62.11, 64.81),
    ("speech_to_rgb", 32): (21.60, 40.11),
    ("speech_to_rgb", 64): (42.36, 51.29),
    ("speech_to_rgb", 128): (54.21, 56.00),
}
# PAN to MS, their mAP without a term; None is all terms. The others were not published.
PUBLISHED_WITHOUT: Final[dict[str | None, float]] = {
    None: 99.05,
    "latent": 6.00,
    "decoder": 12.40,
    "classifier": 94.18,
}
PUBLISHED_ALPHA: Final[dict[tuple[str, float], float]] = {
    ("rgb_to_speech", 0.0): 0.0,
    ("speech_to_rgb", 0.0): 0.0,
    ("rgb_to_speech", 1.0): 62.11,
    ("speech_to_rgb", 1.0): 54.21,
    ("rgb_to_speech", 2.0): 32.09,
    ("speech_to_rgb", 2.0): 33.64,
}
_DEFAULT_ALPHA: Final = 1.0


class RunFigures(Findings):
    """One direction of one run, figures 0..1. `key` names all that decided it; `baseline_map` is without learning."""

    scenario: Scenario
    objective: str
    dim: int
    without: str | None
    alpha: float | None
    direction: str
    num_queries: int
    gallery_size: int
    map: float | None
    map_ci95: tuple[float, float] | None
    mean_precision_at_k: float | None
    precision_at_10: float | None
    chance_map: float | None
    ceiling_map: float | None
    ceiling_mean_precision_at_k: float | None
    ceiling_precision_at_10: float | None
    baseline_map: float | None
    validation_score: float | None
    num_steps: int
    seconds: float
    key: str

    @property
    def is_changed(self) -> bool:
        """Whether a term was left out or alpha is not the default."""
        return self.without is not None or self.alpha is not None


class DataFigures(Findings):
    """What was measured on; `note` says how it differs from what the published figures were measured on."""

    scenario: str
    num_train: int
    num_val: int
    num_test: int
    note: str


class DimensionRow(Findings):
    """`paper`: their mAP and P@10. `mean_p`: mean precision at k, `ap`: average precision, `max`: a perfect ranking."""

    direction: str
    dim: int
    objective: str
    paper_mean_p: float | None
    paper_p10: float | None
    mean_p: float | None
    p10: float | None
    ap: float | None
    chance_ap: float | None
    max_mean_p: float | None
    max_p10: float | None


class ChangedRow(Findings):
    """The published network with something changed; columns as in DimensionRow."""

    direction: str
    changed: str
    paper_mean_p: float | None
    mean_p: float | None
    p10: float | None
    ap: float | None
    chance_ap: float | None
    max_mean_p: float | None


class ContrastRow(Findings):
    """Average precision of both objectives at the largest dimension: same items, same budget; 95% over queries."""

    direction: str
    dim: int
    cmirnet_ap: float | None
    cmirnet_ap_95: str
    contrastive_ap: float | None
    contrastive_ap_95: str
    without_learning_ap: float | None
    chance_ap: float | None
    is_better: bool


def tables_of(rows: Sequence[RunFigures]) -> dict[str, Sequence[Findings]]:
    """The tables by name, those without a row left out."""
    tables: dict[str, Sequence[Findings]] = {}
    for scenario, name in (("pan-ms", "pan_ms"), ("image-speech", "image_speech")):
        plain = [row for row in rows if row.scenario == scenario and not row.is_changed]
        in_order = sorted(plain, key=lambda row: DIRECTIONS[row.scenario].index(row.direction))
        tables[f"{name}_by_dimension_percent"] = [_dimension_row(row) for row in in_order]
        largest = max((row.dim for row in plain), default=0)
        full = [row for row in in_order if row.dim == largest and row.objective == "cmirnet"]
        changed = [row for row in rows if row.scenario == scenario and row.is_changed]
        if scenario == "pan-ms":
            tables["pan_to_ms_without_a_term_percent"] = [
                _changed_row(row, row.without or "nothing left out", PUBLISHED_WITHOUT.get(row.without))
                for row in [*full, *changed]
                if row.direction == "pan_to_ms"
            ]
        else:
            by_alpha = sorted([*full, *changed], key=lambda row: (row.direction, _alpha(row)))
            tables["image_speech_by_alpha_percent"] = [
                _changed_row(row, f"alpha {_alpha(row):g}", PUBLISHED_ALPHA.get((row.direction, _alpha(row))))
                for row in by_alpha
            ]
        ours = {row.direction: row for row in plain if row.objective == "contrastive"}
        tables[f"{name}_cmirnet_and_contrastive_percent"] = [
            _contrast_row(row, ours[row.direction]) for row in full if row.direction in ours
        ]
    return {name: found for name, found in tables.items() if found}


def headline_of(rows: Sequence[RunFigures]) -> dict[str, float | None]:
    """Average precision 0..1 of the unchanged runs of the largest dimension, by direction and objective."""
    largest = {row.scenario: 0 for row in rows}
    for row in rows:
        largest[row.scenario] = max(largest[row.scenario], row.dim)
    kept = [row for row in rows if not row.is_changed and row.dim == largest[row.scenario]]
    return {f"{row.direction}_{row.objective}": row.map for row in kept}


def data_of(scenario: Scenario, files: Sequence[ShardFile]) -> DataFigures:
    """How many items of the first modality each split holds, and what they are beside the published data."""
    first = MODALITIES_OF[scenario][0]
    counts = {
        split: sum(file.num_rows for file in files if file.modality == first and file.split == split)
        for split in ("train", "val", "test")
    }
    metadata = metadata_of(list_items(files))
    sensors = {name for name in metadata.column("sensor").to_pylist() if name}
    classes = {name for name in metadata.column("scene_class").to_pylist() if name}
    if scenario == "image-speech":
        num_spoken = sum(file.num_rows for file in files if file.modality == "speech")
        note = (
            f"{sum(counts.values())} images and {num_spoken} utterances, images by their pixels; theirs: 2,100 images "
            "by features of a pretrained net, 255 utterances, labels of test items seen in training. Not the same "
            "data: figures beside each other, not to be compared number by number"
        )
    elif sensors == {GF1_PMS.name} and classes == set(LAND_COVERS):
        note = "DSRSID; theirs saw labels of test items in stage 1 and held training items in the gallery"
    else:
        made_of = ", ".join(sorted(sensors)) or "unknown"
        note = (
            f"stand-in data (sensor {made_of}, {len(classes)} classes); theirs: DSRSID, Gaofen-1, 80,000 pairs, 8 "
            "classes, labels of test items seen in training. Not the same data: figures beside each other, not to be "
            "compared number by number"
        )
    return DataFigures(
        scenario=scenario,
        num_train=counts["train"],
        num_val=counts["val"],
        num_test=counts["test"],
        note=note,
    )


def _dimension_row(row: RunFigures) -> DimensionRow:
    theirs = PUBLISHED.get((row.direction, row.dim)) if row.objective == "cmirnet" else None
    return DimensionRow(
        direction=row.direction,
        dim=row.dim,
        objective=row.objective,
        paper_mean_p=theirs[0] if theirs else None,
        paper_p10=theirs[1] if theirs else None,
        mean_p=_percent(row.mean_precision_at_k),
        p10=_percent(row.precision_at_10),
        ap=_percent(row.map),
        chance_ap=_percent(row.chance_map),
        max_mean_p=_percent(row.ceiling_mean_precision_at_k),
        max_p10=_percent(row.ceiling_precision_at_10),
    )


def _changed_row(row: RunFigures, changed: str, theirs: float | None) -> ChangedRow:
    return ChangedRow(
        direction=row.direction,
        changed=changed,
        paper_mean_p=theirs,
        mean_p=_percent(row.mean_precision_at_k),
        p10=_percent(row.precision_at_10),
        ap=_percent(row.map),
        chance_ap=_percent(row.chance_map),
        max_mean_p=_percent(row.ceiling_mean_precision_at_k),
    )


def _contrast_row(theirs: RunFigures, ours: RunFigures) -> ContrastRow:
    return ContrastRow(
        direction=theirs.direction,
        dim=theirs.dim,
        cmirnet_ap=_percent(theirs.map),
        cmirnet_ap_95=_interval(theirs.map_ci95),
        contrastive_ap=_percent(ours.map),
        contrastive_ap_95=_interval(ours.map_ci95),
        without_learning_ap=_percent(theirs.baseline_map),
        chance_ap=_percent(theirs.chance_map),
        is_better=(ours.map or 0.0) > (theirs.map or 0.0),
    )


def _alpha(row: RunFigures) -> float:
    return _DEFAULT_ALPHA if row.alpha is None else row.alpha


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100.0 * value, 2)


def _interval(bounds: tuple[float, float] | None) -> str:
    return "-" if bounds is None else f"{100 * bounds[0]:.1f}..{100 * bounds[1]:.1f}"
