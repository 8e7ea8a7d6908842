"""An evaluation becomes report.json, report.html and a table for terminals.

Chance, the ranking without learning and the ceiling stand beside the figures: 0.2 may be chance, or all there is.
"""

from collections.abc import Mapping

from rich.table import Table

from cmir.archive import storage
from cmir.errors import DataError
from cmir.evaluation.figures import DirectionFigures, Figures, Report
from cmir.evaluation.measurement import Evaluation
from cmir.evaluation.page import render_page

JSON_NAME = "report.json"
HTML_NAME = "report.html"


def write_report(
    evaluation: Evaluation, uri: str, *, pictures: Mapping[str, bytes], compared: Evaluation | None = None
) -> Report:
    """Write report.json and report.html into the folder `uri`; returns what stands in report.json.

    `pictures` holds WebP by item_id (missing ones are shown as empty tiles), see panels.item_ids; `compared` is the
    evaluation of another bundle on the same items.
    """
    report = evaluation.report
    if compared is not None:
        report = report.model_copy(update={"compare": compared.report})
    page = render_page(evaluation, pictures=pictures, compared=compared)
    storage.put_atomic(storage.join(uri, HTML_NAME), page.encode())
    storage.put_atomic(storage.join(uri, JSON_NAME), report_json(report).encode())
    return report


def report_json(report: Report) -> str:
    """The text of report.json; `compare` only where there is one."""
    return report.model_dump_json(indent=1, exclude={"compare"} if report.compare is None else None) + "\n"


def read_report(uri: str) -> Report:
    """The report of an evaluation's folder, or of the JSON file itself. Raises DataError where it is not one."""
    place = uri if uri.endswith(".json") else storage.join(uri, JSON_NAME)
    try:
        return Report.model_validate_json(storage.read_bytes(place))
    except ValueError as error:
        raise DataError("not a report", seen=str(error)[:200], expected="report.json", where=place) from error


def summary_table(report: Report) -> Table:
    """A row per direction: average precision with its interval, chance, baseline and ceiling, and the first places."""
    title = f"relevance {report.relevance}, {' + '.join(report.query_splits)} in {' + '.join(report.gallery_splits)}"
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in ("direction", "queries", "gallery", "mAP", "95%", "chance", "no learning", "ceiling"):
        table.add_column(name, justify="left" if name == "direction" else "right")
    for name in ("P@10 / max", "mean P@k / max", "hit@1", "nDCG@10", "MRR"):
        table.add_column(name, justify="right")
    if report.compare is not None:
        table.add_column("other mAP", justify="right")
    for name, figures in report.directions.items():
        row = _row(name, figures)
        if report.compare is not None:
            other = report.compare.directions.get(name)
            row.append("-" if other is None else number(other.map))
        table.add_row(*row)
    return table


def _row(name: str, figures: DirectionFigures) -> list[str]:
    ceiling = figures.ceiling
    low, high = figures.map_ci95 or (None, None)
    return [
        name,
        f"{figures.num_queries:,}",
        f"{figures.gallery_size:,}",
        f"[bold]{number(figures.map)}[/bold]",
        "-" if low is None else f"{number(low)}..{number(high)}",
        number(figures.chance_map),
        number(figures.baseline.map if figures.baseline else None),
        number(ceiling.map),
        f"{number(figures.precision_at.get('10'))} / {number(ceiling.precision_at.get('10'))}",
        f"{number(figures.mean_precision_at_k)} / {number(ceiling.mean_precision_at_k)}",
        number(figures.hit_at.get("1")),
        number(figures.ndcg_at.get("10")),
        number(figures.mrr),
    ]


def number(value: float | None) -> str:
    """Three places; a dash where there is no value."""
    return "-" if value is None else f"{value:.3f}"


__all__ = [
    "HTML_NAME",
    "JSON_NAME",
    "DirectionFigures",
    "Figures",
    "Report",
    "number",
    "read_report",
    "report_json",
    "summary_table",
    "write_report",
]
