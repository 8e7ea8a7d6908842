"""An evaluation becomes HTML pages that load nothing: their pictures, curves, maps and style are inside them."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cmir.evaluation import baseline
from cmir.evaluation.failures import failures
from cmir.evaluation.figures import (
    Difference,
    DirectionFigures,
    Figures,
    GroupFigures,
    Interval,
    MeasuredFigures,
    Report,
    WithinScene,
    WithoutOverlap,
)
from cmir.evaluation.measurement import DirectionResult, Evaluation
from cmir.evaluation.panels import Panel, item_ids, spread_panels, worst_panels
from cmir.evaluation.plots import Curve, precision_recall_svg
from cmir.evaluation.space_map import SpaceMap, space_map

FAILURES_NAME: Final = "failures.html"
_KINDS: Final = (
    ("label", "per_label"),
    ("class", "per_class"),
    ("sensor", "per_sensor"),
    ("engine", "per_engine"),
    ("voice", "per_voice"),
    ("number of right answers", "per_num_relevant"),
)
_MOST_BARS: Final = 40
_WORDS: Final = {"pan": "PAN", "ms": "MS", "rgb": "RGB", "speech": "speech", "speech_many": "phrases"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of the summary with what it is worth: value, interval, and the values printed below it."""

    value: float | None
    interval: Interval | None
    beside: tuple[tuple[str, float | None], ...]


Cells = tuple[tuple[str, Cell], ...]


@dataclass(frozen=True, slots=True)
class Bars:
    """Groups of one kind with those of the compared bundle, best to worst; `num_hidden` left out between them."""

    kind: str
    groups: tuple[tuple[str, GroupFigures, GroupFigures | None], ...]
    num_hidden: int


@dataclass(frozen=True, slots=True)
class Variant:
    """The same queries in another gallery."""

    title: str
    note: str
    figures: MeasuredFigures
    cells: Cells


@dataclass(frozen=True, slots=True)
class Section:
    """All that the page shows of one direction; `ground` is what is called overlap in it."""

    name: str
    title: str
    ground: str
    figures: DirectionFigures
    other: DirectionFigures | None
    difference: Difference | None
    cells: Cells
    other_cells: Cells
    plot: Markup
    bars: tuple[Bars, ...]
    variants: tuple[Variant, ...]
    panels: tuple[Panel, ...]


def shown_items(evaluation: Evaluation) -> set[str]:
    """The ids of all items whose picture the pages want."""
    wanted = {item for failed in failures(evaluation) for item in item_ids(failed.panels)}
    for result in evaluation.results.values():
        wanted.update(item_ids(spread_panels(result, evaluation.items)))
    return wanted


def render_page(
    evaluation: Evaluation,
    report: Report,
    *,
    pictures: Mapping[str, bytes],
    compared: Evaluation | None = None,
) -> str:
    """The text of report.html. `pictures`: WebP by item_id; items without one get an empty tile."""
    others = {} if compared is None else compared.results
    sections = [
        _section(result, evaluation, others.get(name), report.differences.get(name))
        for name, result in evaluation.results.items()
    ]
    worst = [panel for result in evaluation.results.values() for panel in worst_panels(result, evaluation.items, 1)]
    shown = {*item_ids(worst), *(item for section in sections for item in item_ids(section.panels))}
    return _rendered(
        "report.html",
        shown,
        pictures,
        report=report,
        compared=report.compare,
        sections=sections,
        maps=_maps(evaluation, compared),
        worst=worst,
        failures_name=FAILURES_NAME,
        baseline_name=baseline.NAME,
    )


def render_failures(evaluation: Evaluation, *, pictures: Mapping[str, bytes]) -> str:
    """The text of failures.html."""
    found = failures(evaluation)
    shown = {item for failed in found for item in item_ids(failed.panels)}
    return _rendered("failures.html", shown, pictures, report=evaluation.report, failures=found)


def title_of(name: str) -> str:
    """`speech_many_to_rgb` as a person reads it.

    >>> title_of("speech_many_to_rgb")
    'phrases → RGB'
    """
    query, gallery = name.split("_to_")
    return f"{_WORDS[query]} → {_WORDS[gallery]}"


def _rendered(template: str, shown: Iterable[str], pictures: Mapping[str, bytes], **content: object) -> str:
    environment = Environment(
        loader=PackageLoader("cmir.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.3f}"
    environment.filters["percent"] = lambda value: f"{100 * value:.2f}%"
    environment.filters["title"] = title_of
    environment.filters["modality"] = _WORDS.__getitem__
    ordered = sorted(shown)
    return environment.get_template(template).render(
        style=Markup((files("cmir.evaluation") / "templates" / "report.css").read_text("utf-8")),
        pictures={item: base64.b64encode(pictures[item]).decode() for item in ordered if item in pictures},
        place={item: place for place, item in enumerate(ordered)},
        **content,
    )


def _maps(evaluation: Evaluation, compared: Evaluation | None) -> list[tuple[str, SpaceMap]]:
    """A titled map of each bundle's space; none of too few items."""
    titled = [("", evaluation)] if compared is None else [("This bundle", evaluation), ("The compared one", compared)]
    found = [(title, space_map(e.items, e.prototypes, e.relevance, seed=e.seed)) for title, e in titled]
    return [(title, drawn) for title, drawn in found if drawn is not None]


def _section(
    result: DirectionResult, evaluation: Evaluation, other: DirectionResult | None, difference: Difference | None
) -> Section:
    figures, other_figures = result.figures, None if other is None else other.figures
    bars = (_bars(kind, getattr(figures, field), getattr(other_figures, field, {})) for kind, field in _KINDS)
    ground = "own voice" if result.direction.query_modality == "speech" else "own ground"
    return Section(
        name=result.direction.name,
        title=title_of(result.direction.name),
        ground=ground,
        figures=figures,
        other=other_figures,
        difference=difference,
        cells=_cells(figures),
        other_cells=() if other_figures is None else _plain(_cells(other_figures)),
        plot=_plot(result, other),
        bars=tuple(found for found in bars if found is not None),
        variants=tuple(_variants(figures, ground)),
        panels=tuple(spread_panels(result, evaluation.items)),
    )


def _variants(figures: DirectionFigures, ground: str) -> Iterable[Variant]:
    without, within = figures.without_overlap, figures.within_scene
    if without is None and within is None:
        return
    yield Variant("whole gallery", f"{figures.gallery_size:,} items", figures, _cells(figures))
    if without is not None:
        yield Variant(f"without the query's {ground}", _without_note(without, figures), without, _cells(without))
    if within is not None:
        yield Variant("the query's own scene only", _within_note(within), within, _cells(within))


def _without_note(found: WithoutOverlap, figures: DirectionFigures) -> str:
    return (
        f"left out: {found.left_out}. "
        f"{found.num_queries_concerned:,} of {found.num_queries:,} queries have such items in the gallery, "
        f"{found.num_items_concerned:,} of {figures.gallery_size:,} items are such; the query that has them is "
        "ranked without them, neither right nor wrong"
    )


def _within_note(found: WithinScene) -> str:
    return (
        f"{found.num_queries:,} queries of {found.num_scenes:,} scenes, each among {found.mean_gallery_size:.1f} chips"
    )


def _cells(figures: MeasuredFigures) -> Cells:
    """The figures, each with the same one of a random order, of the baseline and of a perfect order."""
    references: Sequence[tuple[str, Figures | None]] = (
        ("chance", figures.chance),
        ("base", figures.baseline),
        ("max", figures.ceiling),
    )

    def at(name: str, k: str, interval: Interval | None = None) -> Cell:
        beside = ((word, getattr(each, name).get(k)) for word, each in references if each is not None)
        return Cell(getattr(figures, name).get(k), interval, tuple(beside))

    def of(name: str, interval: Interval | None = None) -> Cell:
        beside = ((word, getattr(each, name)) for word, each in references if each is not None)
        return Cell(getattr(figures, name), interval, tuple(beside))

    return (
        ("mAP", of("map", figures.map_ci95)),
        ("mean P@k", of("mean_precision_at_k", figures.mean_precision_at_k_ci95)),
        ("P@10", at("precision_at", "10", figures.precision_at_10_ci95)),
        ("hit@1", at("hit_at", "1", figures.hit_at_1_ci95)),
        ("recall@10", at("recall_at", "10")),
        ("nDCG@10", at("ndcg_at", "10")),
        ("MRR", of("mrr", figures.mrr_ci95)),
    )


def _plain(cells: Cells) -> Cells:
    """Without the values beside them: those of the same queries and gallery stand a row above."""
    return tuple((name, replace(cell, beside=())) for name, cell in cells)


def _bars(kind: str, groups: Mapping[str, GroupFigures], others: Mapping[str, GroupFigures]) -> Bars | None:
    """Nothing where there is one group only: it would repeat the figure of the direction."""
    if len(groups) < 2:
        return None
    ordered = sorted(groups.items(), key=lambda entry: (-entry[1].map, entry[0]))
    half = _MOST_BARS // 2
    shown = ordered if len(ordered) <= _MOST_BARS else ordered[:half] + ordered[-half:]
    return Bars(kind, tuple((name, group, others.get(name)) for name, group in shown), len(ordered) - len(shown))


def _plot(result: DirectionResult, other: DirectionResult | None) -> Markup:
    if not len(result.direction.queries):
        return Markup("")
    curves = [Curve("this bundle", result.rankings.curve.mean(axis=0), "solid")]
    if other is not None:
        curves.append(Curve("compared", other.rankings.curve.mean(axis=0), "dashdot"))
    if result.baseline is not None:
        curves.append(Curve("no learning", result.baseline.curve.mean(axis=0), "dashed"))
    share = (result.rankings.num_relevant / result.rankings.num_candidates.clip(1)).mean()
    name = result.direction.name
    return Markup(precision_recall_svg(curves, chance=float(share), title=name))
