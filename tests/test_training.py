"""Training learns, goes on exactly where it stopped, works with whatever knowledge there is, and writes a bundle."""

import copy
import dataclasses
import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmir.archive.shards import list_shards
from cmir.errors import ConfigError
from cmir.network.augment import ImageAugmentation
from cmir.network.batches import Batch, ImagePart
from cmir.network.bundle import load_bundle, read_config, read_train_scenes
from cmir.network.catalogue import read_catalogue
from cmir.network.compiled import compile_trunk
from cmir.network.embedder import Embedder
from cmir.network.feed import TrainingFeed
from cmir.network.learner import DivergedError, Learner, divided, learning_rate
from cmir.network.new_learner import build_learner
from cmir.network.objectives import contrastive
from cmir.network.objectives.contrastive import ContrastiveWeights, Targets
from cmir.network.scenes import digests_of
from cmir.network.training import SaveState, UnwritableError, feed_settings, fit
from cmir.network.training_data import read_training_data, trainable_modalities
from cmir.network.training_settings import TrainSettings, chosen_modalities, weight_settings
from cmir.network.validation import Validation, mean_average_precision, mean_reciprocal_rank
from tests.tiny_archives import (
    LABELS,
    chip_row,
    elsewhere,
    features_row,
    nameless_row,
    one_step,
    tiny_settings,
    tone_row,
    write_archive,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Twelve grounds of pan, ms and rgb and nine utterances to train on, six and six for validation."""
    folder = tmp_path_factory.mktemp("world")
    for split, start, count in (("train", 0, 12), ("val", 50, 6)):
        rows = [chip_row(start + i, name) for i in range(count) for name in ("pan", "ms", "rgb")]  # type: ignore[arg-type]
        write_archive(folder, rows + [tone_row(start + i) for i in range(9)], split=split)  # type: ignore[arg-type]
    return str(folder)


def test_chips_grow_to_the_size_that_inference_sees() -> None:
    settings = TrainSettings()
    sizes = [[settings.size_px_at(name, fraction) for fraction in (0.0, 0.5, 0.75, 1.0)] for name in ("rgb", "ms")]
    assert sizes == [[96, 112, 128, 128], [64, 64, 64, 64]]
    assert TrainSettings(growth=()).size_px_at("rgb", 0.0) == 128
    assert tiny_settings().size_px_at("rgb", 0.0) == 16


def test_a_preset_has_sizes_and_weights_of_its_own_where_none_are_given() -> None:
    settings = TrainSettings(preset="pan-ms")
    assert [(px, settings.size_px_at(name, 1.0)) for name, px in settings.working_size_px.items()] == [
        (128, 128),
        (96, 96),
        (128, 128),
    ]
    assert [settings.size_px_at("ms", fraction) for fraction in (0.0, 0.5)] == [64, 80], "96 px are worth growing to"
    assert TrainSettings().working_size_px["pan"] == 64
    assert (settings.image_augmentation.min_area, TrainSettings().image_augmentation.min_area) == (0.35, 0.6)
    wary = TrainSettings(preset="pan-ms", augmentation=ImageAugmentation(min_area=0.8)).image_augmentation
    assert wary == ImageAugmentation(min_area=0.8), "what is given stands"
    assert (TrainSettings().term_weights.classes, settings.term_weights.labels) == (0.25, 0.25)
    given = TrainSettings(preset="pan-ms", weights=ContrastiveWeights(classes=0.1), chip_size_px={"pan": 48, "ms": 48})
    assert (given.working_size_px, given.term_weights.classes) == ({"pan": 48, "ms": 48}, 0.1)
    assert TrainSettings(preset="pan-ms", ablate="classes").term_weights.classes == 0.0
    assert TrainSettings(preset="pan-ms", objective="cmirnet").working_size_px["pan"] == 256
    recorded = settings.recorded()
    assert (recorded["chip_size_px"], recorded["weights"]) == (
        {"pan": 128, "ms": 96, "rgb": 128},
        {"labels": 0.25, "classes": 0.75, "pairs": 0.35, "modalities": 0.1, "words": 0.75},
    )


def test_speech_is_changed_more_as_training_goes_on() -> None:
    settings = TrainSettings()
    assert [settings.speech_strength_at(fraction) for fraction in (0.0, 0.3, 0.6, 1.0)] == pytest.approx(
        [0.2, 0.6, 1, 1]
    )
    assert TrainSettings(speech_strength=(0.2, 0.0)).speech_strength_at(0.0) == 1.0


class StoppedError(Exception):
    """Stands for whatever ends a process in the middle."""


def test_ten_steps_are_five_and_a_resume_and_five(tmp_path: Path) -> None:
    rows = [chip_row(i, name) for i in range(9) for name in ("pan", "ms")]  # type: ignore[arg-type]
    uri = write_archive(tmp_path / "archive", rows)
    whole = fit(tiny_settings(), [uri], str(tmp_path / "whole"), device=CPU)
    num_checks = 0

    def stop_at_five(figures: Mapping[str, float], save_state: SaveState | None) -> None:
        nonlocal num_checks
        num_checks += 1
        if num_checks == 5:
            assert save_state is not None
            save_state(tmp_path / "state.pt")
            raise StoppedError("the process died")

    often = tiny_settings(validate_every_s=1e-9)
    with pytest.raises(StoppedError, match="died"):
        fit(often, [uri], str(tmp_path / "resumed"), device=CPU, on_checkpoint=stop_at_five)
    assert not (tmp_path / "resumed" / "config.json").exists(), "no bundle before the end"
    load_bundle(str(tmp_path / "resumed" / "last"))  # but the last weights, to look at
    resumed = fit(tiny_settings(), [uri], str(tmp_path / "resumed"), device=CPU, resume_from=tmp_path / "state.pt")
    assert resumed.num_steps == whole.num_steps == 10
    assert resumed.space_id == whole.space_id, "the same weights to the last bit"


def test_the_best_weights_survive_a_resume(world: str, tmp_path: Path) -> None:
    def keep(figures: Mapping[str, float], save_state: SaveState | None) -> None:
        assert save_state is not None
        save_state(tmp_path / "state.pt")

    settings = tiny_settings(max_steps=1)
    first = fit(settings, [world], str(tmp_path / "first"), device=CPU, on_checkpoint=keep)
    again = fit(settings, [world], str(tmp_path / "again"), device=CPU, resume_from=tmp_path / "state.pt")
    assert again == dataclasses.replace(first, num_steps_before=1, seconds=again.seconds)


def test_the_best_and_the_last_weights_are_both_bundles_at_any_time(world: str, tmp_path: Path) -> None:
    settings = tiny_settings(max_steps=4, validate_every_s=1e-9)
    at_checks: list[tuple[str, str]] = []

    def look(figures: Mapping[str, float], save_state: SaveState | None) -> None:
        at_checks.append(tuple(load_bundle(str(tmp_path / "b" / name)).space_id for name in ("best", "last")))  # type: ignore[arg-type]

    result = fit(settings, [world], str(tmp_path / "b"), device=CPU, on_checkpoint=look)
    assert len({last for _, last in at_checks}) == 4, "the last weights are others after every step"
    assert result.space_id == at_checks[-1][0] == load_bundle(str(tmp_path / "b")).space_id
    assert load_bundle(str(tmp_path / "b" / "last")).space_id == at_checks[-1][1]
    assert not (tmp_path / "b" / "best").exists(), "the bundle itself is the best"


def test_training_ends_when_nothing_gets_better(world: str, tmp_path: Path) -> None:
    standing = {"learning_rate": 1e-12, "kernel_learning_rate": 1e-12, "preset": "pan-ms", "validate_every_s": 1e-9}
    settings = tiny_settings(max_steps=50, patience=2, **standing)
    result = fit(settings, [world], str(tmp_path / "b"), device=CPU)
    assert (result.num_steps, result.stopped_early) == (3, True), "one to be better than, two that were not"
    assert load_bundle(str(tmp_path / "b")).metrics["num_steps"] == 3
    without = fit(
        settings.model_copy(update={"patience": None, "max_steps": 5}), [world], str(tmp_path / "c"), device=CPU
    )
    assert (without.num_steps, without.stopped_early) == (5, False)


def test_a_loss_that_is_no_number_stops_before_it_spoils_the_weights(
    world: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings(max_steps=6, validate_every_s=1e-9)
    whole = fit(settings, [world], str(tmp_path / "whole"), device=CPU)
    encode = Learner._encode_images
    learners: list[Learner] = []

    def spoil_the_fourth(learner: Learner, chips: Any) -> torch.Tensor:
        learners.append(learner)
        return encode(learner, chips) * (float("nan") if len(learners) == 4 else 1.0)

    def keep(figures: Mapping[str, float], save_state: SaveState | None) -> None:
        assert save_state is not None
        save_state(tmp_path / "state.pt")

    monkeypatch.setattr(Learner, "_encode_images", spoil_the_fourth)
    with pytest.raises(DivergedError, match=r"training diverged: seen labels nan, .* expected finite .*\(step 3\)"):
        fit(settings, [world], str(tmp_path / "b"), device=CPU, on_checkpoint=keep)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in learners[-1].net.state_dict().values())
    kept = load_bundle(str(tmp_path / "b" / "last"))
    assert kept.metrics["num_steps"] == 3, "the last good weights are there to look at"
    resumed = fit(settings, [world], str(tmp_path / "b"), device=CPU, resume_from=tmp_path / "state.pt")
    assert (resumed.num_steps_before, resumed.num_steps) == (3, 6)
    assert resumed.space_id == whole.space_id, "and to go on from"


def test_a_gradient_that_is_no_number_stops_as_well(world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_settings()
    learner, batch = one_step(settings, world)
    before = copy.deepcopy(learner.net.state_dict())
    learner.net.logit_scale.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(DivergedError, match=r"gradient (inf|nan)"):
        learner.step(batch, step=0, fraction=0.0)
    for name, tensor in learner.net.state_dict().items():
        if "running" not in name and "num_batches" not in name:  # statistics of batches are not weights
            assert torch.equal(tensor, before[name]), name


def test_accumulation_gives_the_gradient_of_the_whole_batch(world: str) -> None:
    gradients = []
    for accumulation_steps in (1, 3, 100):
        learner, batch = one_step(tiny_settings(accumulation_steps=accumulation_steps), world)
        calls: list[int] = []
        encode = learner.net.encode_images
        learner.net.encode_images = lambda chips, encode=encode, calls=calls: (  # type: ignore[method-assign]
            calls.append(sum(len(part.gsd_m) for part in chips)) or encode(chips)
        )
        learner.step(batch, step=0, fraction=0.0)
        gradients.append({name: p.grad for name, p in learner.net.named_parameters() if p.grad is not None})
        total = sum(len(part.gsd_m) for part in batch.images)
        assert max(calls) == -(-total // min(accumulation_steps, total)), "only so many chips are in memory"
    for others in gradients[1:]:
        assert set(others) == set(gradients[0])
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(others[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # dynamo's own
def test_compiled_code_sees_few_shapes_and_changes_nothing(world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[torch.Size] = []

    def look(module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        shapes.append(inputs[0].shape if inputs else torch.Size())
        return module.forward

    monkeypatch.setattr("cmir.network.learner.compile_trunk", lambda net: compile_trunk(net, backend=look))
    plain, batch = one_step(tiny_settings(), world)
    compiled, _ = one_step(tiny_settings(compile="always"), world)
    expected, seen = (learner.step(batch, step=0, fraction=0.0) for learner in (plain, compiled))
    assert seen == pytest.approx(expected, rel=1e-4)
    fewer = divided(batch.images, 2)[0]
    torch.testing.assert_close(compiled.net.encode_images(fewer), plain.net.encode_images(fewer), atol=1e-5, rtol=1e-4)
    assert 1 <= len(shapes) <= 2, "24 chips are 32, and 12 are 16"


def test_training_learns_and_writes_a_bundle_that_embeds(tmp_path: Path) -> None:
    uri = write_archive(tmp_path / "archive", [chip_row(i, "rgb") for i in range(24)])
    write_archive(tmp_path / "archive", [chip_row(50 + i, "rgb") for i in range(6)], split="val")
    settings = tiny_settings(max_steps=60, learning_rate=5e-3)
    result = fit(settings, [uri], str(tmp_path / "b"), device=CPU, log_dir=tmp_path)
    assert result.figures["label_to_rgb_map"] > 0.9
    assert list(tmp_path.glob("events.out.tfevents.*")), "TensorBoard scalars"
    embedder = Embedder.open(str(tmp_path / "b"), device="cpu")
    assert embedder.space_id == result.space_id
    assert embedder.labels == LABELS
    vectors = embedder.embed([chip_row(i, "rgb").media for i in range(60, 66)])
    assert (vectors @ embedder.prototypes.T).argmax(axis=1).tolist() == [0, 1, 2, 0, 1, 2]
    config = embedder.bundle.config
    assert config.training["seed"] == 0
    assert {count.split: count.num_items for count in config.data} == {"train": 24, "val": 6}


@pytest.mark.parametrize(
    ("preset", "rows", "figure"),
    [
        ("pan-ms", [chip_row(i, m, labels=()) for i in range(8) for m in ("pan", "ms")], "pan_to_ms_pair_mrr"),
        ("all", [chip_row(i, "rgb", is_paired=False) for i in range(8)], "label_to_rgb_map"),
        ("image-speech", [chip_row(i, "rgb") for i in range(8)] + [features_row(i) for i in range(10)],
         "speech_to_rgb_map"),
        ("all", [features_row(i) for i in range(10)], None),
    ],
)  # fmt: skip
def test_any_kind_of_knowledge_is_enough(preset: str, rows: list, figure: str | None, tmp_path: Path) -> None:
    uri = write_archive(tmp_path / "a", rows)
    write_archive(tmp_path / "a", elsewhere(rows), split="val")
    result = fit(tiny_settings(preset=preset, max_steps=2), [uri], str(tmp_path / "b"), device=CPU)
    assert figure is None or 0.0 < result.figures[figure] <= 1.0
    assert result.num_steps == 2
    assert load_bundle(str(tmp_path / "b")).space_id == result.space_id


def test_the_published_network_is_trained_by_the_same_loop(tmp_path: Path) -> None:
    rows = [chip_row(i, name) for i in range(6) for name in ("pan", "ms")]  # type: ignore[arg-type]
    uri = write_archive(tmp_path / "a", rows)
    write_archive(tmp_path / "a", elsewhere(rows), split="val")
    settings = tiny_settings(objective="cmirnet", preset="pan-ms", max_steps=2, ablate="decoder")
    assert settings.published_settings.weights.decoder == 0.0
    result = fit(settings, [uri], str(tmp_path / "b"), device=CPU)
    assert result.num_steps == 2
    assert 0.0 < result.figures["pan_to_ms_pair_mrr"] <= 1.0
    assert load_bundle(str(tmp_path / "b")).config.network.architecture == "cmirnet"
    with pytest.raises(ConfigError, match="starts from random weights"):
        fit(settings, [uri], str(tmp_path / "c"), device=CPU, init_from=str(tmp_path / "b"))
    no_stage_1 = weight_settings("cmirnet", {"classes": 0, "orthogonality": 0})
    nothing = tiny_settings(objective="cmirnet", preset="pan-ms", **no_stage_1)
    with pytest.raises(ConfigError, match="stage 1 of objective cmirnet has nothing to learn"):
        fit(nothing, [uri], str(tmp_path / "c"), device=CPU)
    with pytest.raises(ValueError, match="nothing would be learnt"):
        TrainSettings(weights=dict.fromkeys(contrastive.TERMS, 0.0))  # type: ignore[arg-type]
    assert TrainSettings(objective="cmirnet").working_size_px["pan"] == 256
    with pytest.raises(ValueError, match="objective contrastive has no term decoder"):
        TrainSettings(ablate="decoder")


def test_validations_of_stage_1_are_not_judged_and_use_up_no_patience(
    world: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps 1 to 6 of 8 are of stage 1; their scores are the best ones, and fall."""
    settings = tiny_settings(objective="cmirnet", preset="pan-ms", max_steps=8, patience=1, validate_every_s=1e-9)
    saved: list[int] = []

    def given(scores: list[float]) -> None:
        told = iter(scores)
        monkeypatch.setattr(Validation, "figures", lambda validation, net, device: {"score": next(told)})

    def stop_at_four(figures: Mapping[str, float], save_state: SaveState | None) -> None:
        assert save_state is not None
        saved.append(len(saved))
        if len(saved) == 4:
            save_state(tmp_path / "state.pt")
            raise StoppedError("the process died")

    given([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.2, 0.3])
    whole = fit(settings, [world], str(tmp_path / "whole"), device=CPU)
    assert (whole.num_steps, whole.stopped_early, whole.figures["score"]) == (8, False, 0.3)
    given([0.9, 0.8, 0.7, 0.6])
    with pytest.raises(StoppedError, match="died"):
        fit(settings, [world], str(tmp_path / "resumed"), device=CPU, on_checkpoint=stop_at_four)
    assert not (tmp_path / "resumed" / "best").exists()
    given([0.5, 0.4, 0.3, 0.2])
    resumed = fit(settings, [world], str(tmp_path / "resumed"), device=CPU, resume_from=tmp_path / "state.pt")
    assert (resumed.num_steps, resumed.stopped_early, resumed.figures["score"]) == (8, False, 0.3)
    given([0.9])
    alone = fit(settings.model_copy(update={"max_steps": 1}), [world], str(tmp_path / "alone"), device=CPU)
    assert alone.figures["score"] == 0.9, "the last one counts, whatever the stage"


def test_utterances_without_labels_are_learnt_as_naming_none(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    for split, start in (("train", 0), ("val", 50)):
        forms = [json.dumps({"form": f"{split} {i % 2}"}) for i in range(9)]
        rows = [dataclasses.replace(tone_row(start + i), attributes=form) for i, form in enumerate(forms)]
        rows += [nameless_row(start + 20 + i) for i in range(6)]
        write_archive(folder, rows, split=split)  # type: ignore[arg-type]
    catalogue = read_catalogue(list_shards([str(folder)], splits=("train",)))
    assert catalogue.has_labels.all()
    assert (catalogue.labels.sum(axis=1) == 0).sum() == 6
    settings = tiny_settings(max_steps=80, utterances_per_batch=15, speech_strength=(0.0, 100.0))
    result = fit(settings, [str(folder)], str(tmp_path / "bundle"), device=CPU)
    assert result.figures["speech_known_auroc"] > 0.9
    assert result.figures["score"] == result.figures["speech_named_right"] > 0.6
    embedder = Embedder.open(str(tmp_path / "bundle"), device="cpu")
    said_in_training = {label: ("train 0", "train 1") for label in LABELS}
    assert embedder.bundle.config.spoken_forms == said_in_training
    said, hiss = (embedder.hear(embedder.embed([row.media])[0]) for row in (tone_row(99), nameless_row(99)))
    assert said is not None
    assert said.is_known
    assert hiss is not None
    assert not hiss.is_known


def test_a_bundle_names_the_labels_that_nobody_said(tmp_path: Path) -> None:
    rows = [chip_row(i, "rgb") for i in range(3)] + [chip_row(3, "rgb", labels=("moon",))]
    uri = write_archive(tmp_path / "a", rows + [features_row(i) for i in range(6)])
    fit(tiny_settings(max_steps=1, unspoken_labels="keep"), [uri], str(tmp_path / "b"), device=CPU)
    assert load_bundle(str(tmp_path / "b")).config.unspoken_labels == ("moon",)


def test_a_bundle_tells_the_scenes_it_was_trained_on_and_those_of_the_bundle_it_began_with(tmp_path: Path) -> None:
    rows = {part: [chip_row(start + i, "rgb") for i in range(4)] for part, start in (("first", 0), ("then", 20))}
    for part, here in rows.items():
        write_archive(tmp_path / part / "in", here)
        write_archive(tmp_path / part / "in", [chip_row(50 + i, "rgb") for i in range(3)], split="val")
    settings, first = tiny_settings(max_steps=1), str(tmp_path / "first" / "b")
    fit(settings, [str(tmp_path / "first" / "in")], first, device=CPU)
    then = str(tmp_path / "then" / "b")
    fit(settings, [str(tmp_path / "then" / "in")], then, device=CPU, init_from=first)
    for uri, parts in ((first, ["first"]), (then, ["first", "then"]), (then + "/last", ["first", "then"])):
        expected = digests_of(row.scene_id for part in parts for row in rows[part])
        found = read_train_scenes(uri, read_config(uri))
        assert found is not None
        np.testing.assert_array_equal(found, expected)


def test_without_a_val_split_the_last_weights_are_kept(tmp_path: Path) -> None:
    uri = write_archive(tmp_path / "a", [chip_row(i, "rgb") for i in range(4)])
    result = fit(tiny_settings(max_steps=2), [uri], str(tmp_path / "b"), device=CPU)
    assert result.figures == {}
    assert load_bundle(str(tmp_path / "b")).space_id == result.space_id


def test_training_ends_when_its_minutes_are_over(world: str, tmp_path: Path) -> None:
    result = fit(tiny_settings(max_steps=None, max_minutes=0.02), [world], str(tmp_path / "b"), device=CPU)
    assert 0 < result.num_steps < 100
    assert result.seconds < 60


def test_a_bundle_can_be_the_start_of_another_training(world: str, tmp_path: Path) -> None:
    first = fit(tiny_settings(max_steps=2), [world], str(tmp_path / "first"), device=CPU)
    settings = tiny_settings(max_steps=1, preset="image-speech", seed=7)
    data = read_training_data(settings, [world])
    learner = build_learner(settings, data, CPU, init_from=str(tmp_path / "first"))
    theirs = load_bundle(str(tmp_path / "first")).net.state_dict()
    assert torch.equal(learner.net.state_dict()["image_tower.trunk.0.conv_in.weight"],
                       theirs["image_tower.trunk.0.conv_in.weight"])  # fmt: skip
    torch.testing.assert_close(learner.net.prototypes.data, theirs["prototypes"])
    assert first.num_steps == 2


def test_a_missing_modality_is_named() -> None:
    with pytest.raises(ConfigError, match=r"preset pan-ms needs other modalities: seen ms, rgb, expected pan, ms"):
        chosen_modalities("pan-ms", ("ms", "rgb"))
    assert chosen_modalities("all", ("ms", "rgb")) == ("ms", "rgb")
    with pytest.raises(ConfigError, match="nothing to train on"):
        trainable_modalities("all", [])


def test_the_learning_rate_warms_up_and_falls() -> None:
    settings = TrainSettings(learning_rate=1.0, warmup_steps=10)
    rates = [learning_rate(settings, step, step / 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert int(np.argmax(rates)) == 9
    assert rates[50] == pytest.approx(0.5, abs=1e-6)
    assert rates[100] == pytest.approx(0.01)


def test_a_training_of_few_steps_warms_up_over_a_tenth_of_it() -> None:
    settings = TrainSettings(learning_rate=1.0, warmup_steps=150)
    rates = [learning_rate(settings, step, step / 100) for step in range(101)]
    assert int(np.argmax(rates)) == 10
    assert rates[5] == pytest.approx(0.5, abs=0.01)


def test_validation_measures_by_hand() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.1, 0.0], [0.2, 0.7, 0.6, 0.1], [0.3, 0.2, 0.4, 0.9]])
    relevant = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 0], [1, 1, 0, 0]]).bool()
    by_hand = [(1 + 2 / 3) / 2, 1 / 2, (1 / 3 + 2 / 4) / 2]
    assert mean_average_precision(scores, relevant) == pytest.approx(sum(by_hand) / 3)
    assert mean_reciprocal_rank(scores, relevant) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert mean_reciprocal_rank(torch.zeros(1, 4), relevant[:1]) == pytest.approx(1 / 3), "ties count against us"


def test_a_batch_of_one_kind_trains(world: str) -> None:
    settings = tiny_settings()
    data = read_training_data(settings, [world])
    feed = TrainingFeed(data.catalogue, data.preprocessing, feed_settings(settings))
    batch = feed.batch(0)
    rgb = [part for part in batch.images if part.modality == "rgb"]
    rows = batch.targets.modality == 2
    only = {
        name: getattr(batch.targets, name)[rows] for name in ("modality", "labels", "has_labels", "class_id", "pair_id")
    }
    learner = build_learner(settings, data, CPU)
    part = learner.prepare(Batch(tuple(rgb), (), type(batch.targets)(**only)), step=0, fraction=0.0)
    values = learner.step(part, step=0, fraction=0.0)
    assert values["pairs"] == 0.0
    assert values["loss"] == pytest.approx(values["labels"] + values["classes"])
    feed.close()


@pytest.mark.parametrize("objective", ["contrastive", "cmirnet"])
def test_chips_of_one_ground_are_looked_at_alike(objective: str, world: str) -> None:
    """PAN and MS hold the same pictures here, in opposite orders."""
    still = {"registration": 0, "gain": 0, "offset": 0, "band_offset": 0, "own_moments": 0, "blur": 0, "noise": 0}
    augmentation = ImageAugmentation.model_validate({**still, "fewer_bands": float(objective == "cmirnet")})
    settings = tiny_settings(objective=objective, preset="pan-ms", augmentation=augmentation)
    learner = build_learner(settings, read_training_data(settings, [world]), CPU)
    pictures = torch.randint(-64, 64, (6, 1, 20, 20)).to(torch.int8)
    parts = (
        ImagePart("pan", pictures, torch.full((1,), 600.0), torch.ones(6)),
        ImagePart("ms", pictures.flip(0).expand(-1, 4, -1, -1), torch.full((4,), 600.0), torch.ones(6)),
    )
    pair_id = torch.cat([torch.arange(6), torch.arange(6).flip(0)])
    nothing = torch.zeros(12, dtype=torch.int64)
    targets = Targets(nothing, torch.zeros(12, 3), torch.zeros(12, dtype=torch.bool), nothing, pair_id)
    pan, ms = learner.prepare(Batch(parts, (), targets), step=0, fraction=0.0).images
    torch.testing.assert_close(pan.pixels.flip(0), ms.pixels[:, :1])
    assert ms.pixels.shape[1] == 4, "no band is taken away, least of all from kernels that are bound to them"


def test_an_output_without_room_ends_training_and_says_so(
    world: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    settings = tiny_settings(max_steps=2, validate_every_s=1e-9)
    with monkeypatch.context() as patched:
        patched.setattr("cmir.network.checkpoints.save_bundle", full)
        with pytest.raises(UnwritableError, match=r"training cannot be written: seen No space left.*--resume"):
            fit(settings, [world], str(tmp_path / "b"), device=CPU)
    passing = OSError(errno.ETIMEDOUT, "timed out")
    monkeypatch.setattr("cmir.network.checkpoints.save_bundle", lambda *args, **kwargs: (_ for _ in ()).throw(passing))
    with pytest.raises(OSError, match="timed out"):
        fit(settings, [world], str(tmp_path / "b"), device=CPU)
