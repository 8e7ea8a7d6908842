"""Tuning: small stays exact, large gets an index that meets the target, new rows extend it before it is rebuilt."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cmir.archive.schema import gallery_schema
from cmir.gallery import tuning
from cmir.gallery.publish import IndexSettings, SearchSettings
from cmir.gallery.recall import RecallBench, Trial
from cmir.gallery.table import CommittedPiece, Gallery, SpaceTable
from tests.gallery_rows import DIM, SPACE, piece_name, piece_rows

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


@pytest.fixture
def always_indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of the tests are small: let them have an index all the same, and never be exact."""
    monkeypatch.setattr(tuning, "EXACT_BELOW_ROWS", 0)
    monkeypatch.setattr(tuning, "EXACT_TRIED_BELOW_ROWS", 0)


def test_small_gallery_stays_exact(tmp_path: Path) -> None:
    space = filled(tmp_path, 400)
    result = tuning.tune(space, 0.99)
    assert (result.chosen.index, result.chosen.search) == (IndexSettings(), SearchSettings())
    assert result.chosen.recall_at_10 == 1
    assert set(result.chosen.recall_by_direction) == {f"{a}_to_{b}" for a in ("pan", "ms") for b in ("pan", "ms")}
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
            return replace(super().trial(index, search, build_s), latency_ms=latency_ms[0])

    build_for_real = tuning.build
    monkeypatch.setattr(tuning, "build", build)
    monkeypatch.setattr(tuning, "RecallBench", TimedBench)
    space = filled(tmp_path, 3000)
    result = tuning.tune(space, 0.97)
    assert result.is_met
    assert {trial.index.kind for trial in result.trials} == {"IVF_SQ", "IVF_FLAT"}
    assert any(trial.recall_at_10 < 0.97 for trial in result.trials)  # one partition of 55 is not enough
    assert result.chosen.index == IndexSettings(kind=chosen, params={"num_partitions": 55})
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
    recalls = [trial.recall_at_10 for trial in trials]
    assert probes == [1, 2, 4, 8, 16, 32][: len(probes)]
    assert recalls == sorted(recalls)
    assert recalls[0] < 0.9
    assert recalls[-1] == 1


@pytest.mark.usefixtures("always_indexed")
def test_new_rows_extend_the_index_instead_of_building_anew(tmp_path: Path) -> None:
    space = filled(tmp_path, 2000)
    tuning.build(space, IndexSettings(kind="IVF_FLAT", params={"num_partitions": 16}))
    add(space, 1, 600)
    assert tuning.indexed_rows(space.dataset()) == 2000
    result = tuning.tune(space, 0.9)
    assert tuning.indexed_rows(space.dataset()) == 2600
    assert {trial.index.params["num_partitions"] for trial in result.trials} == {16}
    assert result.is_met


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
