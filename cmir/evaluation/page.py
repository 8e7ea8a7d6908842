"""An evaluation becomes one HTML page that loads nothing: its pictures, curves and style are inside it."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from cmir.evaluation import baseline
from cmir.evaluation.figures import DirectionFigures, GroupFigures
from cmir.evaluation.measurement import DirectionResult, Evaluation
from cmir.evaluation.panels import Panel, item_ids, spread_panels, worst_panels
from cmir.evaluation.plots import Curve, precision_recall_svg

_KINDS = (("label", "per_label"), ("class", "per_class"), ("sensor", "per_sensor"), ("voice", "per_voice"))
_MOST_BARS = 40


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of the summary with what it is worth: value, and the values printed below it."""

    value: float | None
    beside: tuple[tuple[str, float | None], ...]


@dataclass(frozen=True, slots=True)
class Bars:
    """Groups of one kind, from the best to the worst; `num_hidden` left out between them."""

    kind: str
    groups: tuple[tuple[str, GroupFigures], ...]
    num_hidden: int


@dataclass(frozen=True, slots=True)
class Section:
    """All that the page shows of one direction."""

    name: str
    title: str
    figures: DirectionFigures
    other: DirectionFigures | None
    cells: tuple[tuple[str, Cell], ...]
    other_cells: tuple[tuple[str, Cell], ...]
    plot: Markup
    bars: tuple[Bars, ...]
    panels: tuple[Panel, ...]


def shown_items(evaluation: Evaluation) -> set[str]:
    """The ids of all items whose picture the page wants."""
    wanted = set(item_ids(worst_panels(evaluation)))
    for result in evaluation.results.values():
        wanted.update(item_ids(spread_panels(result, evaluation.items)))
    return wanted


def render_page(evaluation: Evaluation, *, pictures: Mapping[str, bytes], compared: Evaluation | None = None) -> str:
    """The text of report.html. `pictures`: WebP by item_id; items without one get an empty tile."""
    others = {} if compared is None else compared.results
    sections = [_section(result, evaluation, others.get(name)) for name, result in evaluation.results.items()]
    worst = worst_panels(evaluation)
    shown = {*item_ids(worst), *(item for section in sections for item in item_ids(section.panels))}
    folder = files("cmir.evaluation") / "templates"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.3f}"
    environment.filters["percent"] = lambda value: f"{100 * value:.2f}%"
    environment.filters["title"] = title_of
    template = environment.from_string((folder / "report.html").read_text("utf-8"))
    return template.render(
        report=evaluation.report,
        compared=None if compared is None else compared.report,
        sections=sections,
        worst=worst,
        baseline_name=baseline.NAME,
        style=Markup((folder / "report.css").read_text("utf-8")),
        pictures={item: base64.b64encode(pictures[item]).decode() for item in sorted(shown) if item in pictures},
        place={item: place for place, item in enumerate(sorted(shown))},
    )


def title_of(name: str) -> str:
    """`speech_many_to_rgb` as a person reads it.

    >>> title_of("speech_many_to_rgb")
    'phrases → RGB'
    """
    words = {"pan": "PAN", "ms": "MS", "rgb": "RGB", "speech": "speech", "speech_many": "phrases"}
    query, gallery = name.split("_to_")
    return f"{words[query]} → {words[gallery]}"


def _section(result: DirectionResult, evaluation: Evaluation, other: DirectionResult | None) -> Section:
    figures = result.figures
    return Section(
        name=result.direction.name,
        title=title_of(result.direction.name),
        figures=figures,
        other=None if other is None else other.figures,
        cells=_cells(figures),
        other_cells=() if other is None else _cells(other.figures),
        plot=_plot(result, other),
        bars=tuple(bars for kind, field in _KINDS if (bars := _bars(kind, getattr(figures, field)))),
        panels=tuple(spread_panels(result, evaluation.items)),
    )


def _cells(figures: DirectionFigures) -> tuple[tuple[str, Cell], ...]:
    """The figures beside mAP, each with the same figure of the baseline and of a perfect order."""
    base, best = figures.baseline, figures.ceiling

    def at(name: str, k: str) -> Cell:
        value = getattr(figures, name).get(k)
        return _cell(value, getattr(base, name).get(k) if base else None, getattr(best, name).get(k))

    paper = _cell(figures.mean_precision_at_k, base.mean_precision_at_k if base else None, best.mean_precision_at_k)
    return (
        ("mean P@k", paper),
        ("P@10", at("precision_at", "10")),
        ("hit@1", at("hit_at", "1")),
        ("recall@10", at("recall_at", "10")),
        ("nDCG@10", at("ndcg_at", "10")),
        ("MRR", _cell(figures.mrr, base.mrr if base else None, best.mrr)),
    )


def _cell(value: float | None, base: float | None, best: float | None) -> Cell:
    return Cell(value, (("max", best),) if base is None else (("base", base), ("max", best)))


def _bars(kind: str, groups: Mapping[str, GroupFigures]) -> Bars | None:
    """Nothing where there is one group only: it would repeat the figure of the direction."""
    if len(groups) < 2:
        return None
    ordered = sorted(groups.items(), key=lambda entry: (-entry[1].map, entry[0]))
    if len(ordered) <= _MOST_BARS:
        return Bars(kind, tuple(ordered), 0)
    half = _MOST_BARS // 2
    return Bars(kind, tuple(ordered[:half] + ordered[-half:]), len(ordered) - _MOST_BARS)


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
