"""From a checkpoint to a bundle that needs it no more: frozen tensors stay, tuned ones move, vectors come back."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cmir.archive.imagery import decode_chip, raw_media
from cmir.archive.schema import Media
from cmir.errors import ConfigError
from cmir.network.bundle import load_bundle, save_bundle
from cmir.network.embedder import Embedder
from cmir.network.feed import TrainingFeed
from cmir.network.learner import Learner
from cmir.network.model import NetworkConfig, SharedSpaceNet
from cmir.network.new_learner import build_learner
from cmir.network.preprocessing import Preprocessing
from cmir.network.pretrained_checkpoint import read_image_checkpoint, read_speech_checkpoint
from cmir.network.pretrained_training import backbone_groups, check_towers, fill_towers, sized_for_towers
from cmir.network.space import space_id_of
from cmir.network.statistics import RunningStatistics
from cmir.network.training import feed_settings, fit
from cmir.network.training_data import read_training_data
from cmir.network.training_settings import TrainSettings
from tests.tiny_archives import chip_row, elsewhere, features_row, tiny_settings, tone_row, write_archive
from tests.tiny_towers import IMAGE_FAMILIES, SPEECH_FAMILIES, write_tower

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [chip_row(i, name) for i in range(6) for name in ("pan", "ms", "rgb")]  # type: ignore[arg-type]
    folder = tmp_path_factory.mktemp("world")
    write_archive(folder, rows + [tone_row(i) for i in range(6)])
    held_out = [chip_row(i, "rgb") for i in range(3)] + [tone_row(i) for i in range(3)]
    return write_archive(folder, elsewhere(held_out), split="val")


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("towers")
    return {family: write_tower(folder / family, family) for family in (*IMAGE_FAMILIES, *SPEECH_FAMILIES)}


def take_step(learner: Learner, feed: TrainingFeed, step: int, fraction: float) -> None:
    prepared = learner.prepare(feed.batch(step), step=step, fraction=fraction)
    learner.step(prepared, step=step, fraction=fraction)


def learner_of(settings: TrainSettings, world: str) -> Learner:
    learner = build_learner(settings, read_training_data(settings, [world]), CPU)
    assert isinstance(learner, Learner)
    return learner


@pytest.mark.parametrize(
    ("image", "speech", "tune"),
    [
        ("vit", "wav2vec2", False),
        ("vit", "wav2vec2", True),
        ("dinov2", "hubert", True),
        ("dinov3_vit", "wavlm", True),
        ("siglip_vision_model", "whisper", False),
        ("siglip2_vision_model", "whisper", True),
        ("dinov2_with_registers", "default", True),
    ],
)
def test_training_makes_a_bundle_that_needs_no_checkpoint(
    image: str, speech: str, tune: bool, world: str, tmp_path: Path
) -> None:
    folders = {kind: write_tower(tmp_path / kind, family) if family != "default" else family
               for kind, family in (("image_tower", image), ("speech_tower", speech))}  # fmt: skip
    settings = tiny_settings(max_steps=3, tune_towers=tune, tower_learning_rate=1e-3, **folders)
    result = fit(settings, [world], str(tmp_path / "bundle"), device=CPU)
    before = read_image_checkpoint(folders["image_tower"]).tensors()
    heard = read_speech_checkpoint(folders["speech_tower"], longest_s=8.0).tensors() if speech != "default" else {}
    for folder in folders.values():
        shutil.rmtree(folder, ignore_errors=True)
    bundle = load_bundle(str(tmp_path / "bundle"))
    assert bundle.space_id == result.space_id
    after = bundle.net.state_dict()
    pairs = [(after[f"image_tower.backbone.{name}"], kept) for name, kept in before.items()]
    pairs += [(after[f"speech_tower.backbone.{name}"], kept) for name, kept in heard.items()]
    moved = [not torch.equal(now, then) for now, then in pairs]
    assert sum(moved) > len(moved) // 2 if tune else not any(moved)
    assert (tmp_path / "bundle" / "config.json").read_text().count(str(tmp_path)) == 0, "no local path"
    assert bundle.config.training["image_tower"] == "image_tower"
    embedder = Embedder.open(str(tmp_path / "bundle"), device="cpu")
    media = [chip_row(7, "rgb").media, tone_row(7).media, chip_row(8, "pan").media, chip_row(9, "ms").media]
    vectors = embedder.embed(media)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    again = np.concatenate([Embedder.open(str(tmp_path / "bundle"), device="cpu").embed([item]) for item in media])
    np.testing.assert_allclose(vectors, again, atol=1e-5)


def test_resumed_steps_are_those_of_one_run(world: str, towers: dict[str, str], tmp_path: Path) -> None:
    settings = tiny_settings(
        max_steps=4, tune_towers=True, image_tower=towers["dinov3_vit"], speech_tower=towers["wav2vec2"]
    )
    feed = TrainingFeed(*_data(settings, world), feed_settings(settings))
    whole, first, second = (learner_of(settings, world) for _ in range(3))
    for step in range(4):
        take_step(whole, feed, step, step / 4)
        if step < 2:
            take_step(first, feed, step, step / 4)
    torch.save(first.state(), tmp_path / "state.pt")
    second.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    for step in (2, 3):
        take_step(second, feed, step, step / 4)
    feed.close()
    for name, tensor in whole.average.state_dict().items():
        assert torch.equal(second.average.state_dict()[name], tensor), name


def _data(settings: TrainSettings, world: str) -> tuple:
    data = read_training_data(settings, [world])
    return data.catalogue, data.preprocessing


def test_frozen_towers_cost_no_gradient_no_state_and_no_second_copy(world: str, towers: dict[str, str]) -> None:
    settings = tiny_settings(image_tower=towers["vit"], speech_tower=towers["wav2vec2"])
    learner = learner_of(settings, world)
    backbones = learner.net.backbones()
    assert len(backbones) == 2
    frozen = [parameter for backbone in backbones for parameter in backbone.parameters()]
    feed = TrainingFeed(*_data(settings, world), feed_settings(settings))
    take_step(learner, feed, 0, 0.0)
    feed.close()
    assert learner.net.training
    assert not any(module.training for backbone in backbones for module in backbone.modules()), "no dropout"
    assert all(parameter.grad is None for parameter in frozen)
    assert not {id(p) for p in frozen} & {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
    copies = [parameter for backbone in learner.average.backbones() for parameter in backbone.parameters()]
    assert all(mine is theirs for mine, theirs in zip(frozen, copies, strict=True))
    assert learner.net.image_head.layers[1].weight is not learner.average.image_head.layers[1].weight
    stem = learner.net.image_tower.stems["ms"].mixer[2]  # type: ignore[union-attr,index]
    assert stem.weight.grad.abs().max() > 0, "what stands before a frozen transformer still learns"


def test_tuned_towers_learn_slowly_and_only_their_matrices_decay(world: str, towers: dict[str, str]) -> None:
    settings = tiny_settings(
        image_tower=towers["siglip_vision_model"], speech_tower=towers["whisper"], tune_towers=True,
        learning_rate=1e-2, tower_learning_rate=1e-4, weight_decay=0.3, warmup_steps=1,
    )  # fmt: skip
    learner = learner_of(settings, world)
    feed = TrainingFeed(*_data(settings, world), feed_settings(settings))
    take_step(learner, feed, 0, 0.0)
    feed.close()
    groups = learner.optimizer.adamw.param_groups
    assert [group["lr"] for group in groups] == pytest.approx([1e-2, 1e-2, 1e-4, 1e-4])
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0, 0.3, 0.0]
    names = {id(p): name for name, p in learner.net.named_parameters()}
    decaying = {names[id(p)] for p in groups[2]["params"]}
    assert "image_tower.backbone.embeddings.patch_embedding.weight" in decaying
    assert "speech_tower.backbone.conv1.weight" in decaying
    assert not any(name.endswith(("bias", "norm.weight", "position_embedding.weight")) for name in decaying)
    positions = learner.net.get_parameter("speech_tower.backbone.embed_positions.weight")
    assert not positions.requires_grad, "sines stay sines"
    every = [id(p) for group in groups for p in group["params"]]
    assert len(every) == len(set(every))


def test_without_pretrained_towers_there_are_no_further_groups(world: str) -> None:
    learner = learner_of(tiny_settings(), world)
    assert backbone_groups(learner.net.backbones(), weight_decay=0.1, rate_scale=0.1) == []
    assert [set(group) & {"rate_scale"} for group in learner.optimizer.adamw.param_groups] == [set(), set()]


@pytest.mark.parametrize(
    ("tower", "flag", "modalities", "message"),
    [
        ("vit", "speech_tower", ("rgb", "speech"), "no speech tower we know"),
        ("wavlm", "image_tower", ("rgb", "speech"), "no image tower we know"),
        ("wavlm", "speech_tower", ("pan", "ms"), "--speech-tower has nothing to do: seen pan, ms, expected speech"),
        ("vit", "image_tower", ("speech",), "--image-tower has nothing to do"),
    ],
)
def test_a_tower_that_cannot_serve_is_refused(
    tower: str, flag: str, modalities: tuple, message: str, towers: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_towers(TrainSettings.model_validate({flag: towers[tower]}), modalities)


def test_speech_as_features_needs_our_own_tower(towers: dict[str, str], tmp_path: Path) -> None:
    uri = write_archive(tmp_path, [features_row(i) for i in range(6)])
    with pytest.raises(ConfigError, match="a pretrained speech tower takes sound"):
        learner_of(tiny_settings(speech_tower=towers["wavlm"]), uri)


def test_settings_that_contradict_each_other_are_refused(towers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="objective cmirnet has towers of its own"):
        TrainSettings(objective="cmirnet", image_tower=towers["vit"])
    with pytest.raises(ValueError, match="no pretrained tower to tune"):
        TrainSettings(tune_towers=True)


def test_chips_have_the_size_the_tower_was_trained_on(towers: dict[str, str]) -> None:
    sized = sized_for_towers(TrainSettings(image_tower=towers["vit"]))
    assert sized.chip_size_px == {"pan": 32, "ms": 32, "rgb": 32}
    chosen = TrainSettings(image_tower=towers["vit"], chip_size_px={"rgb": 48})
    assert sized_for_towers(chosen) is chosen
    with pytest.raises(ConfigError, match=r"no whole patches: seen 50 px, expected a multiple of 8.*--chip-size-px 48"):
        sized_for_towers(TrainSettings(image_tower=towers["vit"], chip_size_px={"rgb": 50}))
    own = TrainSettings()
    assert sized_for_towers(own) is own


BANDS = {
    1: ("pan",),
    3: ("red", "green", "blue"),
    4: ("blue", "green", "red", "nir"),
    8: ("coastal", "blue", "green", "yellow", "red", "rededge", "nir", "nir2"),
    10: ("blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08a", "swir1", "swir2"),
}


def chip(num_bands: int, seed: int) -> Media:
    modality = {1: "pan", 3: "rgb"}.get(num_bands, "ms")
    size_px = (20, 24 + num_bands)
    pixels = np.random.default_rng(seed).integers(0, 200, (num_bands, *size_px)).astype(np.uint16)
    return raw_media(modality, pixels, bands=BANDS[num_bands], sensor=f"S{num_bands}", gsd_m=2.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["dinov3_vit", "siglip2_vision_model"])
def test_the_embedder_takes_chips_of_any_bands_and_speech(family: str, towers: dict[str, str], tmp_path: Path) -> None:
    running = RunningStatistics()
    for num_bands in BANDS:
        media = chip(num_bands, 0)
        running.add_chip(media.modality, decode_chip(media))
    image, speech = read_image_checkpoint(towers[family]), read_speech_checkpoint(towers["hubert"], longest_s=2.0)
    net = SharedSpaceNet(
        NetworkConfig(
            modalities=("pan", "ms", "rgb", "speech"),
            dim=24,
            pretrained_image=image.config,
            pretrained_speech=speech.config,
        )
    )
    fill_towers(net, image, speech, tune=False)
    preprocessing = Preprocessing.fit(running, chip_size_px=dict.fromkeys(("pan", "ms", "rgb"), 32), max_speech_s=2.0)
    save_bundle(str(tmp_path), net, preprocessing, metrics={}, training={})
    embedder = Embedder.open(str(tmp_path), device="cpu", max_batch=3)
    embedder.warm_up()
    media = [chip(num_bands, seed) for seed in (1, 2) for num_bands in BANDS] + [tone_row(i).media for i in range(3)]
    together = embedder.embed(media)
    assert together.shape == (13, 24)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(together, np.concatenate([embedder.embed([item]) for item in media]), atol=1e-5)
    assert len(np.unique(together.round(5), axis=0)) == 13


def test_a_bundle_without_the_package_says_what_to_install(
    towers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = read_image_checkpoint(towers["vit"])
    net = SharedSpaceNet(NetworkConfig(modalities=("rgb",), dim=8, pretrained_image=image.config))
    save_bundle(str(tmp_path), net, Preprocessing(chip_size_px={"rgb": 32}), metrics={}, training={})
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"cmir\[pretrained\]"):
        load_bundle(str(tmp_path))


def test_settings_of_our_own_towers_say_nothing_of_pretrained_ones() -> None:
    """They are what a space_id is made of: fields of pretrained towers must not rename the spaces of others."""
    for config in (
        NetworkConfig(modalities=("pan", "speech"), labels=("sea",)),
        NetworkConfig(modalities=("pan", "ms", "rgb", "speech"), labels=("sea", "ship")),
    ):
        assert "pretrained" not in json.dumps(config.model_dump(mode="json"))


def test_a_space_is_named_by_its_transformer_too(towers: dict[str, str]) -> None:
    image = read_image_checkpoint(towers["vit"]).config
    other = image.model_copy(update={"transformer": {**image.transformer, "layer_norm_eps": 1e-3}})
    configs = [NetworkConfig(modalities=("rgb",), pretrained_image=entry) for entry in (image, other)]
    assert len({space_id_of({}, config.model_dump(mode="json"), {}) for config in configs}) == 2
    with pytest.raises(ValueError, match="architecture cmirnet"):
        NetworkConfig.model_validate({**configs[0].model_dump(), "architecture": "cmirnet"})
