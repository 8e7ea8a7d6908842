"""The train job: refusals before work, a bundle by a group of workers, going on after a stop."""

import json
from pathlib import Path

import pytest
import torch

from cmir.archive import storage
from cmir.network.bundle import load_bundle
from cmir.network.learner import DivergedError
from cmir.network.objectives.cmirnet import CmirNetWeights
from cmir.network.pretrained_checkpoint import read_image_checkpoint
from cmir.network.training_settings import TrainSettings
from jobs import cluster, train
from jobs.entrypoint import run_command
from jobs.training_worker import WorkerTask
from tests.conftest import RayCluster
from tests.tiny_archives import chip_row, tiny_settings, tone_row, write_archive
from tests.tiny_towers import write_tower


def job(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict]:
    code = run_command("train", train.TrainConfig, train.run, list(arguments))
    return code, json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("archive")
    for split, start in (("train", 0), ("val", 50)):
        rows = [chip_row(start + i, "rgb") for i in range(6)] + [tone_row(start + i) for i in range(6)]
        write_archive(folder, rows, split=split)  # type: ignore[arg-type]
    return str(folder)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--shards", "nowhere"), "input not found"),
        (("--preset", "pan-ms"), "preset pan-ms needs other modalities"),
        (("--preset", "everything"), "--preset does not fit"),
        (("--num-workers", "3:2"), "expected N or MIN:MAX"),
        (("--init-from", "nowhere"), "bundle is incomplete"),
        (("--ablate", "everything"), "--ablate does not fit"),
        (("--objective", "cmirnet", "--ablate", "pairs"), "objective cmirnet has no term pairs"),
        (("--weights", "latent=1"), "objective contrastive has no weight latent"),
        (("--objective", "cmirnet", "--weights", "latent=1,latnet=2"), "objective cmirnet has no weight latnet"),
        (("--objective", "cmirnet", "--weights", "norm=-1"), "a weight is 0 or more"),
        (("--weights", "labels=0,classes=0,pairs=0,modalities=0,words=0"), "nothing would be learnt"),
        (("--weights", "labels=0,pairs=0,modalities=0,words=0", "--ablate", "classes"), "nothing would be learnt"),
        (
            ("--objective", "cmirnet", "--weights", "latent=0,classifier=0,norm=0,decoder=0,regulariser=0"),
            "nothing would be learnt: one of the weights latent, classifier, norm, decoder, regulariser",
        ),
        (
            ("--objective", "cmirnet", "--preset", "image-speech", "--ablate", "orthogonality"),
            "orthogonality cannot be changed: the network has no stage 1: seen speech",
        ),
        (("--objective", "cmirnet", "--ablate", "classes"), "classes cannot be changed: the network has no stage 1"),
        (("--objective", "cmirnet", "--weights", "classes=2"), "classes cannot be changed: the network has no stage 1"),
        (("--weights", "labels"), "--weights.labels does not fit"),
        (("--presets", "all"), "did you mean --preset"),
        (("--mlflow", "sqlite:///runs.db"), "expected http(s)://host:port or sqlite:////absolute/path.db"),
        (("--objective", "cmirnet", "--accumulation-steps", "2"), "batch norm over whole steps"),
        (("--objective", "cmirnet", "--precision", "bf16"), "objective cmirnet trains in fp32"),
        (("--image-tower", "./nowhere"), "no pretrained tower there: seen no such folder"),
        (
            ("--image-tower", "VIT", "--chip-size-px", "20"),
            "chips are no whole patches: seen 20 px, expected a multiple of 8",
        ),
        (("--speech-tower", "VIT"), "no speech tower we know: seen model_type vit"),
        (("--speech-tower", "VIT", "--objective", "cmirnet"), "objective cmirnet has towers of its own"),
        (("--tune-towers",), "there is no pretrained tower to tune"),
    ],
)
def test_what_cannot_work_is_refused_before_the_output_is_touched(
    flags: tuple[str, ...], message: str, archive: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tower = write_tower(tmp_path.parent / f"{tmp_path.name}-vit", "vit") if "VIT" in flags else ""
    flags = tuple(tower if word == "VIT" else word for word in flags)
    given = () if flags[0] == "--shards" else ("--shards", archive)
    code, line = job(capsys, *given, *flags, "--output", str(tmp_path / "out"))
    assert (code, line["status"]) == (2, "refused")
    assert message in line["error"]
    assert not list(tmp_path.iterdir())


def test_input_that_cannot_be_judged_is_refused_before_the_output_is_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_archive(tmp_path / "in", [chip_row(i, "rgb") for i in range(4)] + [tone_row(i) for i in range(4)])
    write_archive(tmp_path / "in", [chip_row(9, "rgb", labels=("moon",))], split="val")
    code, line = job(capsys, "--shards", str(tmp_path / "in"), "--output", str(tmp_path / "out"))
    assert (code, line["status"]) == (2, "refused")
    assert "a label is missing from the vocabulary: seen moon on 1 items of split val" in line["error"]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_labels_without_a_word_are_refused_or_stand_in_the_last_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = {"figures": {}, "space_id": "s", "speed": {}, "num_steps": 1, "num_steps_before": 0, "stopped_early": False}
    monkeypatch.setattr(train.cluster, "connect", lambda **_: None)
    monkeypatch.setattr(train, "train_group", lambda *_: done)
    rows = [chip_row(i, "rgb") for i in range(3)] + [chip_row(9, "rgb", labels=("moon",))]
    write_archive(tmp_path / "in", rows + [tone_row(i) for i in range(4)])
    given = ("--shards", str(tmp_path / "in"), "--output", str(tmp_path / "out"))
    code, line = job(capsys, *given)
    assert (code, line["status"]) == (2, "refused")
    assert "a label is missing from the vocabulary: seen moon on 1 chips of split train" in line["error"]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    code, line = job(capsys, *given, "--unspoken-labels", "keep")
    assert (code, line["unspoken_labels"]) == (0, ["moon"])


def test_an_output_that_exists_is_refused(archive: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    code, line = job(capsys, "--shards", archive, "--output", str(tmp_path / "out"))
    assert code == 2
    assert "output exists" in line["error"]
    assert (tmp_path / "out" / "mine.txt").read_text() == "kept"


def test_a_device_that_the_cluster_may_have_is_not_looked_for_here(
    monkeypatch: pytest.MonkeyPatch, archive: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    arguments = ("--shards", archive, "--device", "cuda", "--output", str(tmp_path / "out"), "--preset", "pan-ms")
    assert "cuda" in job(capsys, *arguments)[1]["error"]
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # refused for the preset, before any cluster is asked
    assert "preset pan-ms" in job(capsys, *arguments)[1]["error"]


@pytest.mark.parametrize(
    ("cores", "num_workers", "expected"), [([0, 4, 4], 2, 4), ([0, 4, 4], 4, 2), ([2], 2, 1), ([0], 1, 1), ([16], 3, 5)]
)
def test_cores_are_shared_by_the_workers_of_nodes_that_have_any(
    cores: list[int], num_workers: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": float(count)} if count else {}} for count in cores]
    monkeypatch.setattr(train.ray, "nodes", lambda: nodes)
    assert train._cores_per_worker(num_workers) == expected


def test_flags_become_settings() -> None:
    config = train.TrainConfig.model_validate(
        {
            "shards": ("a",),
            "output": "b",
            "dim": "32",
            "max_minutes": "2.5",
            "grounds_per_batch": 12,
            "utterances_per_batch": "48",
            "seed": 3,
            "ablate": "pairs",
        }
    )
    expected = TrainSettings(
        dim=32, max_minutes=2.5, grounds_per_batch=12, utterances_per_batch=48, seed=3, ablate="pairs"
    )
    assert config.settings() == expected
    assert train.TrainConfig(shards=("a",), output="b").settings() == TrainSettings(), "two places hold the defaults"
    assert expected.term_weights.pairs == 0.0
    assert expected.term_weights.labels == expected.weights.labels > 0


def test_every_weight_can_be_set_and_every_term_left_out() -> None:
    flags = {"shards": ("a",), "output": "b", "objective": "cmirnet"}
    for name in CmirNetWeights.model_fields:
        config = train.TrainConfig.model_validate({**flags, "weights": f"{name}=0.25"})
        weights = config.settings().published_settings.weights
        assert weights == CmirNetWeights().model_copy(update={name: 0.25})
    config = train.TrainConfig.model_validate({**flags, "weights": {"latent": 2, "alpha": -1}})  # as --config gives it
    assert (config.settings().published.weights.latent, config.settings().published.weights.alpha) == (2.0, -1.0)
    for term in ("latent", "classifier", "norm", "decoder", "regulariser", "orthogonality"):
        config = train.TrainConfig.model_validate({**flags, "ablate": term})
        assert getattr(config.settings().published_settings.weights, term) == 0.0
    config = train.TrainConfig.model_validate({"shards": ("a",), "output": "b", "weights": "pairs=1"})
    assert config.settings().term_weights.pairs == 1.0


def test_towers_and_sizes_reach_the_workers_as_they_were_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def arrived(**flags: object) -> TrainSettings:
        config = train.TrainConfig.model_validate({"shards": ("a",), "output": "b", **flags})
        task = WorkerTask(settings=config.settings(), shard_uris=("a",), bundle_uri="b")
        return WorkerTask.model_validate(json.loads(json.dumps(task.loop_config()))).settings

    assert arrived(objective="cmirnet").working_size_px == {"pan": 256, "ms": 64, "rgb": 256}
    assert arrived(objective="cmirnet", chip_size_px=96).working_size_px == {"pan": 96, "ms": 96, "rgb": 96}
    monkeypatch.chdir(tmp_path)
    settings = arrived(image_tower="./dino", speech_tower="openai/whisper-base", tune_towers=True)
    assert settings.image_tower == str(tmp_path / "dino"), "workers run elsewhere"
    assert settings.speech_tower == "openai/whisper-base"
    assert "chip_size_px" not in settings.model_fields_set
    assert settings.recorded()["image_tower"] == "dino"
    config = train.TrainConfig(shards=("a",), output="b", image_tower="./dino", speech_tower="openai/whisper-base")
    assert config.uris() == ["b", "a", "./dino"]


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("tune", [False, pytest.param(True, marks=pytest.mark.long)])
def test_two_workers_train_with_pretrained_towers(
    tune: bool, archive: str, tmp_path: Path, on_cluster: RayCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    image, speech = write_tower(tmp_path / "vit", "vit"), write_tower(tmp_path / "wavlm", "wavlm")
    flags = ["--shards", archive, "--output", str(tmp_path / "out"), "--num-workers", "2", "--device", "cpu"]
    flags += ["--image-tower", image, "--speech-tower", speech, "--max-steps", "2", "--dim", "16"]
    code, line = job(capsys, *flags, *(["--tune-towers"] if tune else []))
    assert (code, line.get("error")) == (0, None)
    bundle = load_bundle(line["outputs"]["bundle"])
    assert bundle.preprocessing.chip_size_px == {"rgb": 32}
    assert bundle.config.network.pretrained_image is not None
    stored = read_image_checkpoint(image).tensors()
    kept = [
        torch.equal(bundle.net.get_parameter(f"image_tower.backbone.{name}"), value) for name, value in stored.items()
    ]
    assert all(kept) is not tune


@pytest.mark.cluster
def test_two_workers_make_a_bundle(
    archive: str, tmp_path: Path, on_cluster: RayCluster, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(train.TrainConfig, "settings", lambda config: tiny_settings(max_steps=config.max_steps))
    flags = ("--shards", archive, "--output", str(tmp_path / "out"), "--num-workers", "2", "--device", "cpu")
    code, line = job(capsys, *flags, "--max-steps", "3")
    assert (code, line["status"], line["num_steps"]) == (0, "ok", 3)
    bundle = load_bundle(line["outputs"]["bundle"])
    assert bundle.space_id == line["outputs"]["space_id"]
    assert bundle.config.network.modalities == ("rgb", "speech")
    assert set(line["validation"]) >= {"speech_to_rgb_map", "rgb_to_speech_map"}
    assert load_bundle(line["outputs"]["last"]).config.network.modalities == ("rgb", "speech")
    assert line["speed"]["samples_per_s"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing partial stays"
    assert not (tmp_path / "out" / "_checkpoints").exists()


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("place", ["folder", pytest.param("s3", marks=pytest.mark.long)])
def test_a_stopped_training_goes_on_from_its_last_checkpoint(
    place: str, archive: str, tmp_path: Path, on_cluster: RayCluster, request: pytest.FixtureRequest
) -> None:
    output = str(tmp_path) if place == "folder" else request.getfixturevalue("s3_bucket") + "/stopped"
    config = train.TrainConfig(shards=(archive,), output=storage.join(output, "out"), device="cpu")
    working_uri = storage.join(output, "out.partial")
    cluster.connect()
    steps = []
    for max_steps in (2, 5):
        result = train.train_group(config, tiny_settings(max_steps=max_steps), working_uri)
        steps.append((result["num_steps_before"], result["num_steps"]))
        assert load_bundle(working_uri).space_id == result["space_id"]
        assert load_bundle(storage.join(working_uri, "last")).metrics["num_steps"] == max_steps
    assert steps == [(0, 2), (2, 5)]
    names = [storage.name_of(file.uri) for file in storage.list_files(storage.join(working_uri, "tensorboard"))]
    assert len(names) == 2, "each part of the training wrote its curves"
    assert all(name.startswith("events.out.tfevents") for name in names)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.long
def test_a_diverged_training_is_not_tried_again_and_keeps_its_checkpoint(
    archive: str, tmp_path: Path, on_cluster: RayCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    config = train.TrainConfig(shards=(archive,), output=str(tmp_path / "out"), device="cpu")
    working_uri = str(tmp_path / "out.partial")
    cluster.connect()
    train.train_group(config, tiny_settings(max_steps=2), working_uri)
    hot = tiny_settings(max_steps=6, weights={"labels": 1e38, "classes": 1e38})
    with pytest.raises(DivergedError, match=r"training diverged: seen .*\(step 2\)"):
        train.train_group(config, hot, working_uri)
    result = train.train_group(config, tiny_settings(max_steps=4), working_uri)
    assert (result["num_steps_before"], result["num_steps"]) == (2, 4)
