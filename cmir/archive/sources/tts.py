"""Labels spoken by synthetic voices: no input but a list of labels, a number of voices and a seed -> speech rows.

Every voice says every spoken form of every label, and utterances that name two or three labels. All that one base
voice says, in whatever variant, is one group and stands in one split; what must never be trained on is settled here:
the second engine (flite) where it speaks, one base voice of espeak-ng where it does not, always stands in test.
Samples are stored as raw 16-bit PCM: an utterance is 20 kB (16.5 kB under zstd, 12.6 kB as FLAC) and is read in a
hundredth of the time that FLAC takes.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final

from cmir.archive.schema import ShardRow, make_group_id, make_item_id
from cmir.archive.sources import Item
from cmir.archive.speech import pcm_media
from cmir.archive.vocabulary import UCMERCED_LABELS, check_labels, load_vocabulary
from cmir.archive.voices import Voice, draw_voices, speak

DEFAULT_NUM_VOICES: Final = 64
SYNTHESISED: Final = "synthesised"
THREE_LABEL_SHARE: Final = 0.2
_TYPICAL_BYTES: Final = 28_000  # 0.9 s of 16-bit samples at 16 kHz


@dataclass(frozen=True, slots=True)
class Utterance:
    """What is said and what it means: `text` names `labels`, in this order."""

    text: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class TtsSource:
    """Source `tts`. `voices` different voices speak; `flite` None uses flite where it is installed.

    Raises DataError for labels that cannot be spoken, no voices, or a language without voices.
    """

    labels: tuple[str, ...] = UCMERCED_LABELS
    voices: int = DEFAULT_NUM_VOICES
    seed: int = 0
    language: str = "en"
    flite: bool | None = None

    def __post_init__(self) -> None:
        check_labels(self.labels)
        self.drawn_voices()

    def drawn_voices(self) -> tuple[Voice, ...]:
        """The voices that speak, in the order of the items."""
        return draw_voices(self.voices, self.seed, language=self.language, flite=self.flite)

    def items(self) -> Iterator[Item]:
        """One item per utterance, voice by voice."""
        voices = self.drawn_voices()
        held_out = held_out_base_voices(voices, self.seed)
        for voice in voices:
            for utterance in utterances(self.labels, voice, self.seed):
                yield Item(
                    key=f"{self.language}/{voice.name}/{'+'.join(utterance.labels)}/{utterance.text}",
                    scene_id=make_group_id("voice", voice.base_voice),
                    num_bytes=_TYPICAL_BYTES,
                    split="test" if voice.base_voice in held_out else None,
                    population="speech",
                    detail={"voice": voice, "utterance": utterance},
                )

    def rows(self, item: Item) -> Iterator[ShardRow]:
        """The utterance, spoken now. Raises DataError where its engine cannot."""
        voice, utterance = item.detail["voice"], item.detail["utterance"]
        yield speech_row(item, voice, utterance)


def speech_row(item: Item, voice: Voice, utterance: Utterance) -> ShardRow:
    """The row of one spoken utterance; raises DataError where the voice's engine cannot speak it."""
    said = {"speaker": voice.base_voice, "voice": voice.name, "base_voice": voice.base_voice, "form": utterance.text}
    described = {key: value for key, value in asdict(voice).items() if key != "base"}
    return ShardRow(
        item_id=make_item_id("tts", item.key, "speech"),
        media=pcm_media(speak(voice, utterance.text)),
        scene_id=item.scene_id,
        source_uri=f"tts:{item.key}",
        labels=utterance.labels,
        attributes=json.dumps(said | described),
    )


def utterances(labels: tuple[str, ...], voice: Voice, seed: int) -> Iterator[Utterance]:
    """Everything one voice says: each label in each form, then, once for each label, an utterance of several labels.

    In the latter each label comes first once; the others, the forms and the word between them are drawn from the seed.
    """
    vocabulary = load_vocabulary()
    for label in labels:
        for form in vocabulary.forms(label):
            yield Utterance(form, (label,))
    if len(labels) < 2:
        return
    drawer = random.Random(f"utterances {seed} {voice.name}")
    for first in labels:
        num_others = 2 if len(labels) > 2 and drawer.random() < THREE_LABEL_SHARE else 1
        others = drawer.sample([label for label in labels if label != first], num_others)
        forms = [drawer.choice(vocabulary.forms(label)) for label in (first, *others)]
        joint = drawer.choice((" and ", " and ", " with ", ", "))
        yield Utterance(", ".join(forms[:-1]) + joint + forms[-1], (first, *others))


def held_out_base_voices(voices: tuple[Voice, ...], seed: int) -> frozenset[str]:
    """The base voices that always stand in test: all of flite, or where only espeak-ng speaks, one of several."""
    other_engine = frozenset(voice.base_voice for voice in voices if voice.engine != "espeak-ng")
    bases = sorted({voice.base_voice for voice in voices})
    if other_engine or len(bases) < 2:
        return other_engine
    return frozenset({random.Random(f"held out {seed}").choice(bases)})
