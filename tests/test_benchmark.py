"""Every benchmark of jobs/benchmark.py at a tiny size: it measures, its figures agree, and its file says on what."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmir.archive.schema import Media
from cmir.archive.shards import list_shards
from cmir.gallery import publish
from cmir.gallery.search import Searcher
from cmir.network.embedder import Embedder
from cmir.network.training_data import read_training_data
from jobs.benchmark import BENCHMARKS
from jobs.benchmarks import galleries, material, plain_loop, quality, serve, train, vectors
from jobs.benchmarks.load import Answers, Question, ask_at_once
from jobs.benchmarks.plain_loop import PlainLoop
from jobs.benchmarks.quality import QualityBenchmark
from jobs.entrypoint import run_choice
from tests.conftest import MakeRow
from tests.tiny_archives import chip_row, tiny_settings, tone_row, write_archive

ROOT = Path(__file__).resolve().parent.parent


class Job:
    """Runs a benchmark in this process; the exit code, the last line of stdout and the content of its file."""

    def __init__(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self._capsys, self.output = capsys, folder / "figures.json"
        self.error = ""

    def __call__(self, what: str, *flags: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
        code = run_choice("benchmark", BENCHMARKS, [what, "--output", str(self.output), *flags])
        printed = self._capsys.readouterr()
        self.error = printed.err
        written = json.loads(self.output.read_text()) if self.output.exists() else {}
        return code, json.loads(printed.out.splitlines()[-1]), written


@pytest.fixture
def job(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Job:
    return Job(capsys, tmp_path)


@pytest.fixture
def rgb_archive(tmp_path: Path, make_row: MakeRow) -> str:
    return write_archive(tmp_path / "in", [make_row(i, size_px=32) for i in range(12)])


def test_embed_compares_the_committed_rate_with_the_network_alone(job: Job, tiny_bundle: str, rgb_archive: str) -> None:
    flags = ("--bundle", tiny_bundle, "--shards", rgb_archive, "--rounds", "1", "--skip-ray", "--device", "cpu")
    code, line, written = job("embed", *flags)
    assert code == 0, line
    what, stages = written["figures"]["what"], written["figures"]["stages"]
    network, process = written["figures"]["ways"]
    assert (what["num_rows"], what["num_pieces"], what["cluster_start_s"]) == (12, 1, None)
    assert (network["to_network"], process["to_template"]) == (1.0, None)
    assert process["to_network"] == pytest.approx(process["rows_per_s"] / network["rows_per_s"])
    assert 0 < process["to_network"] < 1
    *parts, whole = stages
    assert sum(part["ms_per_row"] for part in parts) == pytest.approx(whole["ms_per_row"])
    assert whole["ms_per_row"] == pytest.approx(1000 / process["rows_per_s"])
    assert line["this_process_with_thumbnails_to_network"] == pytest.approx(process["to_network"], abs=1e-4)
    assert "draw thumbnails" in job.error


def test_gflop_per_row_is_that_of_the_layers(job: Job, tiny_bundle: str, rgb_archive: str) -> None:
    flags = ("--bundle", tiny_bundle, "--shards", rgb_archive, "--rounds", "1", "--skip-ray", "--device", "cpu")
    gflop_per_row = job("embed", *flags)[2]["figures"]["what"]["gflop_per_row"]
    # 6 px kernels of 3 bands and of their local contrast to 32 channels, 32 px chips at a stride of 4
    stem = 2 * 2 * 3 * 6 * 6 * 32 * 8 * 8
    block = 2 * (2 * 32 * 3 * 3 * 32 * 8 * 8)  # two 3 x 3 convolutions at 8 x 8
    contrast = 2 * 2 * (3 + 1) * 32**3  # means along rows and along columns, of the bands and of their power
    layers = stem + block + contrast
    assert layers < 1e9 * gflop_per_row < 1.1 * layers


def test_train_gives_every_part_of_a_step_to_a_stage(tmp_path: Path) -> None:
    rows = [chip_row(i, modality) for i in range(12) for modality in ("rgb", "pan")] + [tone_row(i) for i in range(8)]
    archive = write_archive(tmp_path / "in", rows)
    device = torch.device("cpu")
    figures, stages = train.measure(tiny_settings(), [archive], device, num_steps=3, num_warmup=1)
    ms = {stage.stage: stage.ms_per_step for stage in stages}
    assert list(ms) == ["feed wait", "augment", "forward", "backward", "optimiser"]
    assert sum(ms.values()) == pytest.approx(figures.ms_per_step)
    assert min(ms[name] for name in ("augment", "forward", "backward", "optimiser")) > 0.05
    assert figures.items_per_step == 2 * 6 + 4  # two steps an epoch: 12 grounds seen by two sensors, 8 utterances
    assert figures.samples_per_s == pytest.approx(1000 * figures.items_per_step / figures.ms_per_step)


def test_the_plain_loop_trains_on_what_the_job_trains_on(tmp_path: Path) -> None:
    rows = [chip_row(i, modality) for i in range(12) for modality in ("rgb", "pan")] + [tone_row(i) for i in range(8)]
    archive = write_archive(tmp_path / "in", rows)
    data = read_training_data(tiny_settings(), [archive])
    steps = list(plain_loop.steps(data, tiny_settings(), 3))
    assert [len(items) for items in steps] == [2 * 8 + 6] * 3
    assert sorted(set().union(*steps)) == list(range(32)), "everything comes within two epochs"
    assert PlainLoop(0, 1).samples_per_s(tiny_settings(), [archive], 3) > 0


def test_search_measures_every_kind_of_index_beside_exact_search(job: Job) -> None:
    flags = ("--num-rows", "600", "--dim", "16", "--clusters", "20", "--queries", "6", "--rounds", "1")
    code, line, written = job("search", *flags)
    assert code == 0, line
    ways = {way["way"]: way for way in written["figures"]["ways"]}
    assert {"exact", "IVF_FLAT", "IVF_SQ", "IVF_RQ"} <= ways.keys()
    assert ways["exact"]["recall_at_10"] == 1
    for way in ways.values():
        assert way["recall_at_10"] > 0.9
        assert min(way["ms_batch_of_32"], way["ms_single"]) > 0  # which is less is a measurement, not a promise
    assert "synthetic" in written["figures"]["data"]["source"]
    assert written["parameters"]["num_rows"] == 600
    filters = {row["filter"]: row for row in written["figures"]["filters"]}
    assert {"modality", "sensor", "a label", "bbox"} <= filters.keys()
    assert filters["modality"]["kept"] == 0.5
    assert min(row[name] for row in filters.values() for name in row if name.startswith("ms_")) > 0


def test_search_copies_the_gallery_it_is_given_and_leaves_it_alone(job: Job, tmp_path: Path) -> None:
    given = str(tmp_path / "gallery")
    space = vectors.synthetic_collection(given, 300, 8, 0, 0).space
    version = int(space.dataset().version)
    exact = (publish.IndexSettings(), publish.SearchSettings())
    publish.publish(given, space.space_id, table_version=version, index=exact[0], search=exact[1], recall_at_10=1.0)
    code, line, written = job("search", "--gallery", given, "--queries", "4", "--rounds", "1")
    assert code == 0, line
    assert written["figures"]["data"]["num_rows"] == 300
    assert written["figures"]["data"]["source"].endswith(f"of {given}")
    assert int(space.dataset().version) == version
    assert not [index for index in space.dataset().describe_indices() if index.name == "vector_idx"]


def test_shard_measures_each_encoding_on_the_same_chips(job: Job, rgb_archive: str) -> None:
    code, line, written = job("shard", "--shards", rgb_archive, "--num-rows", "20", "--rounds", "1")
    assert code == 0, line
    found = {row["encoding"]: row for row in written["figures"]["encodings"]}
    assert list(found) == ["raw", "png", "jpeg", "webp"]
    assert [found[name]["psnr_db"] is None for name in found] == [True, True, False, False]
    assert found["jpeg"]["psnr_db"] > 10  # noise is what jpeg keeps worst
    for row in found.values():
        seconds = (row["fetch_ms_per_row"] + row["decode_ms_per_row"]) / 1000
        assert row["read_rows_per_s"] == pytest.approx(1 / seconds)


def test_the_file_says_what_ran_where(job: Job, rgb_archive: str) -> None:
    _, line, written = job("shard", "--shards", rgb_archive, "--num-rows", "4", "--rounds", "1")
    assert (line["job"], line["what"], line["outputs"]) == ("benchmark", "shard", {"benchmark": str(job.output)})
    assert {"num_cores", "num_threads", "cpu", "load_before"} <= written["machine"].keys()
    assert {"python", "torch", "ray", "pyarrow"} <= written["machine"]["versions"].keys()
    assert written["parameters"]["num_rows"] == 4
    assert written["command"].startswith("python jobs/benchmark.py")


def test_evaluation_is_measured_with_its_memory(job: Job) -> None:
    code, line, written = job("evaluate", "--num-queries", "40", "--gallery-size", "300", "--chips")
    assert code == 0, line
    rank, figures, whole = written["figures"]["synthetic_evaluation"]
    assert (rank["num_queries"], rank["gallery_size"]) == (40, 300)
    assert figures["ms_per_query"] == pytest.approx(1000 * figures["seconds"] / (40 * 4 * 2))
    assert 0.05 < rank["peak_memory_gb"] <= figures["peak_memory_gb"]
    assert whole["step"] == "evaluate.py on chips"
    assert 0.05 < whole["peak_memory_gb"] < 5
    assert line["peak_memory_gb"] == pytest.approx(whole["peak_memory_gb"], abs=1e-3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("shrad",), "did you mean shard|expected shard"),
        (("shard", "--rows", "4"), "did you mean --num-rows"),
        (("shard", "--shards", "/nowhere"), "/nowhere"),
        (("quality", "--data", "/nowhere"), "--data not found"),
    ],
)
def test_what_cannot_be_measured_is_refused(job: Job, flags: tuple[str, ...], message: str) -> None:
    code, line, written = job(*flags)
    assert (code, line["status"], written) == (2, "refused", {})
    assert any(part in line["error"] for part in message.split("|"))


def test_an_output_that_is_a_folder_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_choice("benchmark", BENCHMARKS, ["shard", "--output", str(tmp_path)]) == 2
    assert "--output is a folder" in capsys.readouterr().err


def test_the_command_lists_its_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_choice("benchmark", BENCHMARKS, ["--help"]) == 0
    assert "embed|device|train|search|serve|shard|speech|quality|evaluate|scaling|paper" in capsys.readouterr().out
    assert run_choice("benchmark", BENCHMARKS, []) == 2
    assert run_choice("benchmark", BENCHMARKS, ["embed", "--help"]) == 0
    assert "Usage: benchmark.py embed" in capsys.readouterr().out


def test_quality_runs_the_documented_commands() -> None:
    config = QualityBenchmark(output="/tmp/q.json", data="/data/uc", max_minutes=3)
    steps = [(step.job, step.name) for step in quality.steps_of(config)]
    shard_steps = [("shard", "ucmerced"), ("shard", "wald"), ("shard", "speech")]
    assert steps == [*shard_steps, ("train", "bundle"), ("evaluate", "by-labels"), ("evaluate", "by-pair")]
    flags = {step.name: " ".join(step.flags) for step in quality.steps_of(config)}
    assert "--source wald --input /data/uc --hard" in flags["wald"]
    assert "--preset all --max-minutes 3.0" in flags["bundle"]
    assert "--shards /tmp/q-work/archive/wald --relevance pair" in flags["by-pair"]
    only_speech = QualityBenchmark(output="/tmp/q.json", data="/data/uc", preset="image-speech")
    assert [step.name for step in quality.steps_of(only_speech)] == ["ucmerced", "speech", "bundle", "by-labels"]


def test_in_process_answers_are_those_of_the_gallery(tmp_path: Path, tiny_bundle: str) -> None:
    archive = write_archive(tmp_path / "in", [chip_row(i, "rgb") for i in range(6)])
    gallery = galleries.published_gallery(str(tmp_path / "gallery"), tiny_bundle, [archive])
    searcher = Searcher.open(gallery)
    process = serve.InProcess(Embedder.open(tiny_bundle, device="cpu"), searcher)
    questions = serve._questions([archive])
    assert {question.media.encoding for question in questions} == {"png"}
    assert min(process.answer(questions)) > 0
    vector = process.embedder.embed([questions[2].media])
    assert searcher.search(vector, k=1)[0][0].score == pytest.approx(1.0, abs=1e-5)


def test_mixed_questions_hold_all_kinds_alike() -> None:
    media = [Media("rgb", b"1", "png"), Media("rgb", b"2", "png"), Media("speech", b"3", "wav")]
    mixed = serve.mixed(serve.by_kind([Question(one) for one in media]))
    assert [question.media.data for question in mixed] == [b"1", b"3", b"2", b"3"]


class _Service(BaseHTTPRequestHandler):
    """Answers images and refuses sounds, as a service that has no tower for them."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        is_image = self.path.startswith("/v1/search/image")
        answer = {"hits": [], "space_id": "s", "gallery_version": 1, "timings_ms": {}, "request_id": "r"}
        body = json.dumps(answer if is_image else {"title": "Media that cannot be used", "detail": "no tower"}).encode()
        self.send_response(200 if is_image else 422)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def service() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_several_clients_are_counted_with_their_errors(service: str) -> None:
    questions = [Question(Media("rgb", b"png", "png")), Question(Media("speech", b"wav", "wav"))]
    answers = ask_at_once(questions, service, num_clients=3, seconds=0.4)
    assert len(answers.ms) > 3
    assert len(answers.errors) > 3
    assert all("no tower" in error for error in answers.errors)
    assert answers.per_s == pytest.approx(len(answers.ms) / answers.seconds)
    assert 0 < answers.percentile(0.5) <= answers.percentile(0.99)


def test_percentiles_are_of_all_answers() -> None:
    assert Answers(ms=[float(i) for i in range(101)], seconds=2.0).percentile(0.99) == 99
    assert np.isnan(Answers().percentile(0.5))


def test_repeated_rows_have_ids_of_their_own(tmp_path: Path) -> None:
    rows = list(material.repeated([chip_row(0, "rgb"), chip_row(1, "rgb")], 5))
    assert len({row.item_id for row in rows}) == 5
    (file,) = list_shards(material.write_archive(rows, str(tmp_path / "out")))
    assert (file.modality, file.split, file.num_rows) == ("rgb", "train", 5)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("what", ["embed", "serve"])
def test_benchmarks_that_start_ray_run_on_nothing_but_an_output(tmp_path: Path, what: str) -> None:
    output = tmp_path / "figures.json"
    small = {
        "embed": ["--max-rows", "400", "--rounds", "1", "--tower", "light"],
        "serve": ["--requests", "5", "--load-seconds", "2", "--clients", "4"],
    }
    command = [sys.executable, str(ROOT / "jobs/benchmark.py"), what, "--output", str(output), *small[what]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(output.read_text())["figures"]
    if what == "embed":
        ways = {way["way"]: way for way in figures["ways"]}
        assert ways["embedding job"]["to_template"] > 0
        assert ways["embedding job, with thumbnails"]["rows_per_s"] > 0
        assert ways["Ray Data template"]["to_template"] == 1.0
    else:
        assert {query["query"] for query in figures["one_client"]} == {"pan", "ms", "rgb", "speech"}
        assert figures["many_clients"]["errors"] == 0
        assert figures["many_clients"]["memory_at_end_mb"] > 0


@pytest.mark.slow
@pytest.mark.long
def test_quality_goes_from_a_world_to_its_figures(tmp_path: Path) -> None:
    output = tmp_path / "quality.json"
    command = [sys.executable, str(ROOT / "jobs/benchmark.py"), "quality", "--output", str(output)]
    command += ["--scenes", "40", "--voices", "3", "--max-minutes", "0.2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {row["direction"]: row for row in json.loads(output.read_text())["figures"]["quality"]}
    assert list(found) == ["speech_to_rgb", "rgb_to_speech", "pan_to_ms", "ms_to_pan"]
    assert found["pan_to_ms"]["baseline"] is not None
    assert all(row["floor"] is None for row in found.values())


def test_training_is_measured_where_there_is_neither_ray_nor_lance() -> None:
    code = (
        "import sys; sys.modules.update(ray=None, lance=None); import jobs.benchmark as b; b.BENCHMARKS['train'].load()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
