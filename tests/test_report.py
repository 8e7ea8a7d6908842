"""report.json, report.html and the table: whole, self-contained, safe against what labels may hold."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from cmir.errors import DataError
from cmir.evaluation.measurement import Evaluation, evaluate
from cmir.evaluation.page import shown_items, title_of
from cmir.evaluation.protocol import Prototypes
from cmir.evaluation.report import read_report, summary_table, write_report
from tests.made_items import Made, items_of

VOID = {"meta", "br", "rect", "line", "path", "circle", "link", "img", "hr"}


def made_evaluation(noise: float = 0.5, space_id: str = "s1") -> Evaluation:
    made = [Made(modality, (f"l{i % 4}",), f"c{i % 4}", f"p{i}") for i in range(24) for modality in ("pan", "rgb")] + [
        Made("speech", (f"l{i % 4}",)) for i in range(8)
    ]
    return evaluate(items_of(made, noise=noise), space_id=space_id, bundle_uri=f"bundles/{space_id}")


def webp() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 128, np.uint8)).save(buffer, "WEBP")
    return buffer.getvalue()


class Balance(HTMLParser):
    """Fails where a tag is closed that is not the open one."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def test_page_is_whole_and_loads_nothing(tmp_path: Path) -> None:
    evaluation = made_evaluation(noise=3.0)
    pictures = dict.fromkeys(shown_items(evaluation), webp())
    report = write_report(evaluation, str(tmp_path), pictures=pictures)
    page, failures = ((tmp_path / name).read_text() for name in ("report.html", "failures.html"))
    for text in (page, failures):
        balance = Balance()
        balance.feed(text)
        assert balance.open == []
        assert len(set(balance.ids)) == len(balance.ids)
        linked = re.findall(r"""(?:src|href)=["']([^#"'][^"']*)""", text)
        assert set(linked) <= {"report.html", "failures.html"}
        assert "@import" not in text
        assert re.findall(r"url\((?!data:image/webp;base64,|#)[^)]*\)", text) == []
        shown = re.findall(r"^\.p(\d+)\{", text, re.MULTILINE)
        assert len(set(shown)) == len(shown) > 0  # each picture once
        assert set(re.findall(r'class="pic p(\d+)"', text)) == set(shown)
    for name in report.directions:
        assert f'id="{name}"' in page
    assert "✓ hit" in page
    assert "✗ miss" in page
    assert "Worst failures" in page
    assert read_report(str(tmp_path)) == report == read_report(str(tmp_path / "report.json"))


def test_comparison_stands_beside(tmp_path: Path) -> None:
    first, second = made_evaluation(0.1, "s1"), made_evaluation(4.0, "s2")
    report = write_report(first, str(tmp_path), pictures={}, compared=second)
    assert report.compare == second.report
    page = (tmp_path / "report.html").read_text()
    here, there = first.report.directions["pan_to_rgb"].map, second.report.directions["pan_to_rgb"].map
    assert here is not None
    assert there is not None
    assert f"this one: {here - there:+.3f} mAP (" in page
    between = report.differences["pan_to_rgb"]
    assert between.num_queries == 24
    assert between.map == pytest.approx(here - there)
    assert between.map_ci95 is not None
    assert 0 < between.map_ci95[0] < between.map < between.map_ci95[1]
    assert read_report(str(tmp_path)) == report
    assert page.count('<svg class="space"') == 4  # by modality and by label, of each bundle
    assert "bundles/s2" in page
    assert "other" in printed(report_table=summary_table(report))


def test_figures_without_overlap_and_within_the_scene_are_on_the_page(tmp_path: Path) -> None:
    made = [
        Made(kind, ("l",), "c", f"{scene}{i}", scene_id=scene, sensor=f"sensor {scene}")
        for scene in ("a", "b")
        for i in range(5)
        for kind in ("pan", "ms")
    ]
    evaluation = evaluate(items_of(made, noise=2.0), space_id="s", relevance="pair")
    figures = write_report(evaluation, str(tmp_path), pictures={}).directions["pan_to_ms"]
    assert figures.without_overlap is not None
    assert figures.within_scene is not None
    page = (tmp_path / "report.html").read_text()
    assert "without the query's own ground" in page.replace("&#39;", "'")
    assert "10 of 10 queries have such items in the gallery" in page
    assert "10 queries of 2 scenes, each among 5.0 chips" in page
    assert f"sensor a <b>{figures.within_scene.per_sensor['sensor a'].hit_at['1']:.3f}</b>" in page


def test_every_figure_has_its_chance_baseline_and_ceiling_beside_it(tmp_path: Path) -> None:
    evaluation = made_evaluation()
    write_report(evaluation, str(tmp_path), pictures={})
    row = (tmp_path / "report.html").read_text().split('<a href="#pan_to_rgb">')[2].split("</tr>")[0]
    cells = row.split("<td>")[2:]
    assert len(cells) == 7
    assert all(word in cell for cell in cells for word in ("chance 0", "base 0", "max "))


def test_intervals_stand_beside_the_figures(tmp_path: Path) -> None:
    made = [Made("rgb", ("a",) if i < 12 else ("b",)) for i in range(15)]
    told = json.dumps({"speaker": "s", "engine": "e"})
    made += [Made("speech", (label,), attributes=told) for label in ("a", "b", "a") for _ in range(4)]
    made += [Made("speech", (), attributes=told, scene_class="other") for _ in range(4)]
    items = items_of(made, noise=4.0)
    evaluation = evaluate(items, space_id="s", prototypes=Prototypes(("a", "b"), items.vectors[[0, 12]], 0.1))
    report = write_report(evaluation, str(tmp_path), pictures={})
    page, figures = (tmp_path / "report.html").read_text(), report.directions["speech_to_rgb"]
    many, naming = figures.per_num_relevant["10+"], report.naming
    assert naming is not None
    assert naming.rejection is not None
    for interval in (figures.precision_at_10_ci95, figures.mean_precision_at_k_ci95, many.precision_at_10_ci95):
        assert interval is not None
        assert f"{interval[0]:.3f}–{interval[1]:.3f}" in page
    for interval in (naming.per_engine["e"].named_right_ci95, naming.rejection.auroc_ci95):
        assert interval is not None
        assert f"{interval[0]:.3f} to {interval[1]:.3f}" in page
    assert "8 queries that ten items or more answer" in page
    assert "chance 0.500" in page


def test_labels_the_bundle_does_not_know_are_named(tmp_path: Path) -> None:
    prototypes = Prototypes(("l0", "other"), np.eye(2, 48, dtype=np.float32))
    made = [Made("rgb", (f"l{i % 20}",)) for i in range(40)]
    evaluation = evaluate(items_of(made), space_id="s", prototypes=prototypes)
    assert len(evaluation.report.unknown_labels) == 19
    write_report(evaluation, str(tmp_path), pictures={})
    page = (tmp_path / "report.html").read_text()
    assert "and 7 more" in page
    assert "prototype: other" in page


def test_labels_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    bad = '</style><script>alert("1")</script>'
    evaluation = evaluate(items_of([Made("rgb", (bad,)), Made("rgb", (bad,)), Made("rgb", ("x",))]), space_id="s")
    write_report(evaluation, str(tmp_path), pictures={})
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_direction_without_figures_has_a_page(tmp_path: Path) -> None:
    made = [Made("speech", ("a",)), Made("rgb", ("a",), "x"), Made("rgb", ("a",), "x")]
    evaluation = evaluate(items_of(made), space_id="s", relevance="class")
    report = write_report(evaluation, str(tmp_path), pictures={})
    assert "judges by" in (tmp_path / "report.html").read_text()
    assert "speech_to_rgb" in printed(summary_table(report))


def test_a_direction_in_which_nothing_can_be_right_is_not_in_the_table() -> None:
    made = [Made("pan", pair_id="p"), Made("ms", pair_id="p")]
    report = evaluate(items_of(made), space_id="s", relevance="pair").report
    assert report.directions["pan_to_pan"].num_queries_unanswerable == 1
    text = printed(summary_table(report))
    assert "pan_to_ms" in text
    assert "pan_to_pan" not in text


def test_table_holds_the_figures() -> None:
    report = made_evaluation().report
    text = printed(summary_table(report))
    for name, figures in report.directions.items():
        (line,) = [line for line in text.splitlines() if f"{name} " in line]
        for value in (figures.map, figures.chance_map, figures.mean_precision_at_k):
            assert value is not None
            assert f"{value:.3f}".removeprefix("0") in line or value == 1.0
    assert "…" not in text


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"space_id": 3}')
    with pytest.raises(DataError, match="not a report"):
        read_report(str(tmp_path))


def test_titles_name_the_query_first() -> None:
    assert title_of("pan_to_ms") == "PAN → MS"
    assert title_of("speech_many_to_rgb") == "phrases → RGB"


def printed(report_table: object) -> str:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(report_table)
    return console.export_text()
