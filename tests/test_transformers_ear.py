"""A recogniser of transformers as second ear: two kinds of heads, the forms in its text, its probabilities."""

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from cmir.errors import ConfigError
from cmir.network.ear_opening import open_ear
from tests.tiny_recognisers import write_speller, write_writer
from tests.tiny_towers import write_tower

FORMS = {"letter": ("o",), "letters": ("o" * 32, "o" * 31)}
HISS = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    made = tmp_path_factory.mktemp("recognisers")
    return {
        "speller": write_speller(made / "speller", logit=5.0),
        "writer": write_writer(made / "writer", logit=5.0),
        "random": write_speller(made / "random"),
    }


@pytest.mark.parametrize(("kind", "label", "num_others"), [("speller", "letter", 31), ("writer", "letters", 33)])
def test_its_text_is_looked_up_and_its_probability_is_the_confidence(
    folders: dict[str, str], kind: str, label: str, num_others: int
) -> None:
    said = open_ear(folders[kind], FORMS).listen(HISS)
    assert said.labels == (label,), said.text
    assert said.confidence == pytest.approx(math.exp(5.0) / (math.exp(5.0) + num_others), abs=1e-4)
    assert said.is_sure


def test_a_text_without_forms_names_nothing(folders: dict[str, str]) -> None:
    for kind in ("random", "speller"):
        said = open_ear(folders[kind], {"sea": ("sea",)}).listen(HISS)
        assert (said.labels, said.confidence, said.is_sure) == ((), 0.0, False)
        assert said.text


def test_it_says_the_same_again(folders: dict[str, str]) -> None:
    ear = open_ear(folders["random"], FORMS)
    assert ear.listen(HISS) == ear.listen(HISS)
    assert ear.name == folders["random"]


def test_what_is_no_recogniser_is_refused(folders: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot open the second ear: recogniser cannot be read"):
        open_ear(write_tower(tmp_path / "hubert", "hubert"), FORMS)  # no tokenizer
    headless = shutil.copytree(folders["speller"], tmp_path / "headless")
    settings = json.loads((headless / "config.json").read_text())
    (headless / "config.json").write_text(json.dumps(settings | {"architectures": ["Wav2Vec2Model"]}))
    with pytest.raises(ConfigError, match="the checkpoint is no speech recogniser: seen Wav2Vec2Model"):
        open_ear(str(headless), FORMS)


def test_a_head_at_random_values_is_refused(folders: dict[str, str], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(folders["speller"], tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"recogniser lacks tensors: seen 1 not there, as lm_head\.weight"):
        open_ear(str(broken), FORMS)


def test_without_transformers_the_extra_is_named(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'cmir\[pretrained\]'"):
        open_ear(folders["speller"], FORMS)
