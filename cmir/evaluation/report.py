"""An evaluation becomes report.json, report.html and a table for terminals.

Chance, the ranking without learning and the ceiling stand beside the figures: 0.2 may be chance, or all there is.
"""

from collections.abc import Mapping

from rich.table import Table

from cmir.archive import storage
from cmir.errors import DataError
from cmir.evaluation.figures import DirectionFigures, Figures, Report
from cmir.evaluation.measurement import Evaluation, differences
from cmir.evaluation.page import FAILURES_NAME, render_failures, render_page

JSON_NAME = "report.json"
HTML_NAME = "report.html"


def write_report(
    evaluation: Evaluation, uri: str, *, pictures: Mapping[str, bytes], compared: Evaluation | None = None
) -> Report:
    """Write report.json, report.html and failures.html into the folder `uri`; returns what stands in report.json.

    `pictures` holds WebP by item_id (missing ones are shown as empty tiles), see panels.item_ids; `compared` is the
    evaluation of another bundle on the same items.
    """
    report = evaluation.report
    if compared is not None:
        between = differences(evaluation, compared)
        report = report.model_copy(update={"compare": compared.report, "differences": between})
    page = render_page(evaluation, report, pictures=pictures, compared=compared)
    storage.put_atomic(storage.join(uri, HTML_NAME), page.encode())
    storage.put_atomic(storage.join(uri, FAILURES_NAME), render_failures(evaluation, pictures=pictures).encode())
    storage.put_atomic(storage.join(uri, JSON_NAME), report_json(report).encode())
    return report


def report_json(report: Report) -> str:
    """The text of report.json; `compare` and `differences` only where there is another bundle."""
    left_out = {"compare", "differences"} if report.compare is None else {"compare": {"differences", "compare"}}
    return report.model_dump_json(indent=1, exclude=left_out) + "\n"


def read_report(uri: str) -> Report:
    """The report of an evaluation's folder, or of the JSON file itself. Raises DataError where it is not one."""
    place = uri if uri.endswith(".json") else storage.join(uri, JSON_NAME)
    try:
        return Report.model_validate_json(storage.read_bytes(place))
    except ValueError as error:
        raise DataError("not a report", seen=str(error)[:200], expected="report.json", where=place) from error


def summary_table(report: Report) -> Table:
    """A row per direction, within 80 columns; report.json and report.html hold the rest.

    Average precision beside chance, the ranking without learning (`base`) and a perfect order (`max`), precision at 10
    beside its own ceiling, mean_precision_at_k (`P@k`), and hit@1; with a comparison, the other bundle's instead.
    """
    splits = f"queries of {'+'.join(report.query_splits)} in {'+'.join(report.gallery_splits)}"
    table = Table(
        title=f"relevance {report.relevance}, {splits}",
        title_justify="left",
        box=None,
        header_style="underline",
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("direction", no_wrap=True)
    last = "hit@1" if report.compare is None else "other"
    for name in ("asked", "mAP", "chance", "base", "max", "P@10/max", "P@k", last):
        table.add_column(name, justify="right", no_wrap=True)
    others = {} if report.compare is None else report.compare.directions
    for name, figures in report.asked.items():
        other = others[name].map if name in others else None
        table.add_row(*_row(name, figures), _short(figures.hit_at.get("1") if report.compare is None else other))
    return table


def _row(name: str, figures: DirectionFigures) -> list[str]:
    ceiling = figures.ceiling
    return [
        name,
        str(figures.num_queries),
        f"[bold]{_short(figures.map)}[/bold]",
        _short(figures.chance_map),
        _short(figures.baseline.map if figures.baseline else None),
        _short(ceiling.map),
        f"{_short(figures.precision_at.get('10'))}/{_short(ceiling.precision_at.get('10'))}",
        _short(figures.mean_precision_at_k),
    ]


def _short(value: float | None) -> str:
    """Three digits in four characters, a dash where there is no value."""
    if value is None:
        return "-"
    return "1.00" if value >= 0.9995 else f"{value:.3f}".removeprefix("0")


__all__ = [
    "FAILURES_NAME",
    "HTML_NAME",
    "JSON_NAME",
    "DirectionFigures",
    "Figures",
    "Report",
    "read_report",
    "report_json",
    "summary_table",
    "write_report",
]
