"""Tuning: small stays exact, large gets an index that meets the target, new rows extend it before it is rebuilt."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cmir.archive.schema import gallery_schema
from cmir.errors import GalleryError
from cmir.gallery import commits, recall, tuning, upkeep
from cmir.gallery.publish import INDEX_NAME, IndexSettings, SearchSettings
from cmir.gallery.recall import RecallBench, Trial
from cmir.gallery.search import nearest_rows
from cmir.gallery.table import CommittedPiece, Gallery, SpaceTable
from jobs.benchmarks.vectors import synthetic_vectors
from tests.gallery_rows import DIM, SPACE, piece_name, piece_rows
from tests.gallery_writers import CompactedMeanwhile

NUM_CLUSTERS = 40


def clustered(piece_id: str, num_rows: int, seed: int) -> pa.Table:
    """Rows around common centres, as embeddings are; half pan, half ms."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(NUM_CLUSTERS, DIM))
    vectors = centres[draw.integers(NUM_CLUSTERS, size=num_rows)] + 0.7 * draw.normal(size=(num_rows, DIM))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    columns = {
        "item_id": [f"{piece_id}-{i}" for i in range(num_rows)],
        "modality": ["pan", "ms"] * (num_rows // 2),
        "split": ["test"] * num_rows,
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM),
        "piece_id": [piece_id] * num_rows,
        "labels": [[]] * num_rows,
    }
    columns |= {name: [name] * num_rows for name in ("scene_id", "source_uri", "content_hash")}
    schema = gallery_schema(DIM)
    empty = {name: [None] * num_rows for name in schema.names if name not in columns}
    return pa.table({**columns, **empty}, schema=schema)


def filled(uri: Path, num_rows: int) -> SpaceTable:
    space = Gallery.create(str(uri)).space(SPACE, DIM, "bundle")
    add(space, 0, num_rows)
    return space


def add(space: SpaceTable, row_group: int, num_rows: int) -> None:
    name = piece_name("a", row_group)
    space.commit([CommittedPiece(name, clustered(name, num_rows, seed=row_group + 1))])


def vector_in(space: SpaceTable, item_id: str) -> np.ndarray:
    """f32[1,D] of an item of the table."""
    table = space.dataset().to_table(columns=["vector"], filter=f"item_id = '{item_id}'")
    return np.array(table["vector"].to_pylist(), dtype=np.float32)


@pytest.fixture
def always_indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of the tests are small: let them have an index all the same, and never be exact. Times do not matter."""
    monkeypatch.setattr(recall, "_TIMED_QUERIES", 1)
    monkeypatch.setattr(tuning, "EXACT_BELOW_ROWS", 0)
    monkeypatch.setattr(tuning, "EXACT_TRIED_BELOW_ROWS", 0)


def test_small_gallery_stays_exact(tmp_path: Path) -> None:
    space = filled(tmp_path, 400)
    result = tuning.tune(space, 0.99)
    assert (result.chosen.index, result.chosen.search) == (IndexSettings(), SearchSettings())
    assert result.chosen.recall_at_10 == 1
    directions = {f"{a}_to_{b}" for a in ("pan", "ms") for b in ("pan", "ms")}
    assert set(result.chosen.recall_by_direction) == directions
    assert set(result.chosen.recall_filtered) == {f"{name}, 10% of rows" for name in directions}, "1% are two rows"
    assert result.chosen.latency_ms > 0
    assert result.is_met
    assert tuning.standing_index(space.dataset()) is None
    assert result.table_version == space.dataset().version


@pytest.mark.usefixtures("always_indexed")
@pytest.mark.parametrize(
    ("latencies_ms", "chosen"),
    [
        ({"IVF_SQ": [1.0], "IVF_FLAT": [2.0]}, "IVF_SQ"),  # built first, so it is built again
        ({"IVF_SQ": [2.0], "IVF_FLAT": [1.0]}, "IVF_FLAT"),  # built last, so it still stands
        ({"IVF_SQ": [1.0, 3.0], "IVF_FLAT": [2.0]}, "IVF_SQ"),  # slower once it stands: the other one is gone by then
    ],
)
def test_large_table_gets_the_fastest_index_that_meets_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, latencies_ms: dict[str, list[float]], chosen: str
) -> None:
    builds: list[str] = []

    def build(space: SpaceTable, index: IndexSettings) -> float:
        builds.append(index.kind)
        return build_for_real(space, index)

    class TimedBench(RecallBench):
        """Real recalls; the latency of a kind is the one given for its nth build."""

        def trial(self, index: IndexSettings, search: SearchSettings, build_s: float) -> Trial:
            latency_ms = latencies_ms[index.kind][builds.count(index.kind) - 1 :][:1] or latencies_ms[index.kind][-1:]
            return replace(super().trial(index, search, build_s), latency_ms=latency_ms[0], latency_filtered_ms=0.0)

    build_for_real = tuning.build
    monkeypatch.setattr(tuning, "build", build)
    monkeypatch.setattr(tuning, "RecallBench", TimedBench)
    space = filled(tmp_path, 1600)
    result = tuning.tune(space, 0.97)
    assert result.is_met
    assert {trial.index.kind for trial in result.trials} == {"IVF_SQ", "IVF_FLAT"}
    assert any(trial.recall_at_10 < 0.97 for trial in result.trials)  # one partition of 40 is not enough
    assert result.chosen.index == IndexSettings(kind=chosen, params={"num_partitions": 40})
    assert tuning.standing_index(space.dataset()) == result.chosen.index
    assert result.table_version == space.dataset().version


@pytest.mark.usefixtures("always_indexed")
def test_where_the_second_build_misses_the_target_the_next_one_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds: list[str] = []

    def build(space: SpaceTable, index: IndexSettings) -> float:
        builds.append(index.kind)
        return build_for_real(space, index)

    def ladder(bench: RecallBench, index: IndexSettings, target: float, build_s: float) -> list[Trial]:
        is_missed = index.kind == "IVF_SQ" and builds.count("IVF_SQ") > 1
        latency_ms = 1.0 if index.kind == "IVF_SQ" else 2.0
        return [Trial(index, SearchSettings(nprobes=4), {"pan_to_ms": 0.5 if is_missed else 1.0}, latency_ms, build_s)]

    build_for_real = tuning.build
    monkeypatch.setattr(tuning, "build", build)
    monkeypatch.setattr(tuning, "_ladder", ladder)
    space = filled(tmp_path, 600)
    result = tuning.tune(space, 0.97)
    assert builds == ["IVF_SQ", "IVF_FLAT", "IVF_SQ", "IVF_FLAT"]
    assert result.is_met
    assert result.chosen.index.kind == "IVF_FLAT"
    assert tuning.standing_index(space.dataset()) == result.chosen.index


@pytest.mark.usefixtures("always_indexed")
def test_recall_rises_with_the_partitions_looked_at(tmp_path: Path) -> None:
    space = filled(tmp_path, 2000)
    tuning.build(space, IndexSettings(kind="IVF_FLAT", params={"num_partitions": 32}))
    trials = tuning.measure(space, 1.0).trials
    probes = [trial.search.nprobes for trial in trials]
    recalls = [min(trial.recall_by_direction.values()) for trial in trials]
    assert probes == sorted(probes)
    assert set(probes) <= {1, 2, 4, 8, 16, 32}
    assert recalls == sorted(recalls)
    assert recalls[0] < 0.9
    assert recalls[-1] == 1


@pytest.mark.usefixtures("always_indexed")
def test_new_rows_extend_the_index_instead_of_building_anew(tmp_path: Path) -> None:
    space = filled(tmp_path, 2000)
    tuning.build(space, IndexSettings(kind="IVF_FLAT", params={"num_partitions": 32}))
    add(space, 1, 600)
    assert tuning.indexed_rows(space.dataset()) == 2000
    name, query = f"{piece_name('a', 1)}-7", vector_in(space, f"{piece_name('a', 1)}-7")
    way = (IndexSettings(kind="IVF_FLAT"), SearchSettings(nprobes=1))
    assert nearest_rows(space.dataset(), query, 1, "", way)["item_id"].to_pylist() == [name], (
        "found before it is indexed"
    )
    result = tuning.tune(space, 0.9)
    assert tuning.indexed_rows(space.dataset()) == 2600
    assert {trial.index.params["num_partitions"] for trial in result.trials} == {32}
    assert result.is_met
    assert nearest_rows(space.dataset(), query, 1, "", way)["item_id"].to_pylist() == [name]


def test_segments_of_an_index_are_merged_before_they_are_many(tmp_path: Path) -> None:
    space = filled(tmp_path, 1000)
    tuning.build(space, IndexSettings(kind="IVF_FLAT", params={"num_partitions": 32}))
    centroids, segments = space.dataset().get_ivf_model(INDEX_NAME).centroids, []
    for run in range(1, 7):
        add(space, run, 60)
        tuning.extend(space)
        segments.append(int(space.dataset().stats.index_stats(INDEX_NAME)["num_indices"]))
    assert segments == [2, 3, 4, 1, 2, 3]
    assert tuning.indexed_rows(space.dataset()) == space.count_rows() == 1360
    assert space.dataset().get_ivf_model(INDEX_NAME).centroids == centroids, "not trained anew"


def test_an_index_is_built_and_extended_beside_compactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = filled(tmp_path, 400)
    for run in (1, 2):
        add(space, run, 60)
    index = IndexSettings(kind="IVF_FLAT", params={"num_partitions": 8})
    for act in (lambda: tuning.build(space, index), lambda: tuning.extend(space)):
        meanwhile = CompactedMeanwhile(space.uri)
        with monkeypatch.context() as patch:
            patch.setattr(commits, "open_table", meanwhile)
            act()
        assert meanwhile.num_opened == 2, "the first attempt met a conflict"
        assert tuning.indexed_rows(space.dataset()) == space.count_rows()
        for run in (3, 4):
            add(space, run + space.count_rows(), 60)


def test_an_index_that_never_gets_its_turn_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = filled(tmp_path, 100)
    add(space, 1, 60)
    monkeypatch.setattr(commits, "MAX_BUILDS", 1)
    monkeypatch.setattr(commits, "open_table", CompactedMeanwhile(space.uri))
    with pytest.raises(GalleryError, match="changed during every attempt: seen 1 attempts"):
        tuning.build(space, IndexSettings(kind="IVF_FLAT", params={"num_partitions": 8}))


@pytest.mark.usefixtures("always_indexed")
def test_a_table_that_outgrew_its_partitions_is_divided_anew(tmp_path: Path) -> None:
    space = filled(tmp_path, 2000)
    tuning.build(space, IndexSettings(kind="IVF_FLAT", params={"num_partitions": 16}))  # of the 45 it would get now
    result = tuning.tune(space, 0.9)
    assert {trial.index.params["num_partitions"] for trial in result.trials} == {45}


@pytest.mark.usefixtures("always_indexed")
def test_partitions_are_tuned_apart_for_searches_with_a_filter(tmp_path: Path) -> None:
    space = filled(tmp_path, 4000)
    tuning.build(space, IndexSettings(kind="IVF_FLAT", params={"num_partitions": 63}))
    result = tuning.measure(space, 0.95)
    assert result.is_met
    search = result.chosen.search
    assert search.nprobes is not None
    assert search.filtered_nprobes is not None
    assert search.filtered_nprobes > search.nprobes
    assert min(result.chosen.recall_filtered.values()) >= 0.95
    same = SearchSettings(nprobes=search.nprobes, filtered_nprobes=search.nprobes)
    trial = result.bench.trial(result.chosen.index, same, 0.0)
    assert min(trial.recall_by_direction.values()) >= 0.95
    assert trial.recall_at_10 < 0.8, "what finds the nearest of all rows does not find the nearest of few"
    assert trial.worst_case.endswith("% of rows")


@pytest.mark.usefixtures("always_indexed")
def test_the_record_holds_every_trial_and_the_recall_of_every_case(tmp_path: Path) -> None:
    space = filled(tmp_path, 2000)
    result = tuning.tune(space, 0.9)
    record = result.record()
    assert record.target_recall == 0.9
    assert record.num_queries == 128
    assert len(record.tried) == len(result.trials) > 2
    assert min(record.recall_by_case.values()) == pytest.approx(result.chosen.recall_at_10, abs=1e-4)
    assert set(record.filters) == {f"{name}, {share} of rows" for name in ("pan", "ms") for share in ("10%", "1%")}
    assert all(sql.startswith("modality IN (") and "item_id <= '" in sql for sql in record.filters.values())


@pytest.mark.usefixtures("always_indexed")
def test_target_that_no_candidate_meets_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coarse = IndexSettings(kind="IVF_SQ", params={"num_partitions": 32})
    monkeypatch.setattr(tuning, "candidates", lambda num_rows: [coarse])
    monkeypatch.setattr(
        tuning,
        "_ladder",
        lambda bench, index, target, build_s: [bench.trial(index, SearchSettings(nprobes=1, refine_factor=2), 0)],
    )
    result = tuning.tune(filled(tmp_path, 1000), 0.999)
    assert not result.is_met
    assert result.chosen.recall_at_10 < 0.999


def test_candidates_grow_with_the_table() -> None:
    assert [index.kind for index in tuning.candidates(90_000)] == ["IVF_SQ", "IVF_FLAT"]
    assert {index.params["num_partitions"] for index in tuning.candidates(90_000)} == {300}
    assert "IVF_RQ" in [index.kind for index in tuning.candidates(4_000_000)]


def test_table_of_one_item_has_nothing_to_miss(tmp_path: Path) -> None:
    space = Gallery.create(str(tmp_path)).space(SPACE, DIM, "bundle")
    name = piece_name("a", 0)
    space.commit([CommittedPiece(name, piece_rows(name, 1))])
    assert tuning.tune(space, 1.0).chosen.recall_at_10 == 1


@pytest.mark.slow
def test_fifty_thousand_vectors_of_four_modalities_meet_the_target_in_every_case(tmp_path: Path) -> None:
    """The whole way at a real size: chosen by tuning, and found again with other queries than tuning asked."""
    dim, num_rows, names = 64, 50_000, ("pan", "ms", "rgb", "speech")
    vectors, draw = synthetic_vectors(num_rows, dim, 500, seed=3), np.random.default_rng(4)
    space = Gallery.create(str(tmp_path)).space(SPACE, dim, "bundle")
    schema, piece_id = gallery_schema(dim), piece_name("a", 0)
    columns: dict[str, object] = {
        "item_id": [f"{i:08x}" for i in draw.permutation(num_rows)],
        "modality": [names[i % 4] for i in range(num_rows)],
        "split": ["test"] * num_rows,
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dim),
        "piece_id": [piece_id] * num_rows,
        "labels": [[f"l{number}"] for number in draw.zipf(1.5, num_rows) % 300],
        **{name: [""] * num_rows for name in ("scene_id", "source_uri", "content_hash")},
    }
    empty = {name: [None] * num_rows for name in schema.names if name not in columns}
    space.commit([CommittedPiece(piece_id, pa.table({**columns, **empty}, schema=schema))])
    upkeep.index_columns(space.uri, upkeep.FILTER_COLUMNS, 0)
    result = tuning.tune(space, 0.99)
    assert result.is_met
    cases = result.chosen.recall_by_case
    assert len(cases) == 16 * 4, "sixteen directions, alone and under filters of 10%, 1% and 0.1%"
    assert min(cases.values()) >= 0.99
    assert {trial.index.kind for trial in result.trials} == {"exact", "IVF_SQ", "IVF_FLAT"}
    other = RecallBench(space.dataset(), seed=77).trial(result.chosen.index, result.chosen.search, 0.0)
    assert min(other.recall_by_case.values()) >= 0.97
