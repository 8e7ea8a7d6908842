"""Labels spoken by synthetic voices: no input but a list of labels, a number of voices and a seed -> speech rows.

Every voice says every spoken form of every label, and utterances that name two or three labels; then, without any
label, words that name none of them, and noises without a word: what a search must not answer. All that one base
voice says, in whatever variant, is one group and stands in one split, and has words of its own among those that name no
label. What must never be trained on is settled here: one engine where several speak, else one base voice, always stands
in test.
Samples are stored as raw 16-bit PCM: an utterance is 20 kB (16.5 kB under zstd, 12.6 kB as FLAC) and is read in a
hundredth of the time that FLAC takes.
"""

import json
import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from cmir.archive.noise import NOISES, noise
from cmir.archive.schema import ShardRow, Split, make_group_id, make_item_id
from cmir.archive.sources import Item
from cmir.archive.speech import pcm_media
from cmir.archive.vocabulary import UCMERCED_LABELS, check_labels, other_words, spoken_forms
from cmir.archive.voices import SHARES, Voice, base_names, draw_voices, speak
from cmir.errors import DataError

DEFAULT_NUM_VOICES: Final = 64
SYNTHESISED: Final = "synthesised"
NO_ENGINE: Final = "none"
THREE_LABEL_SHARE: Final = 0.2
NUM_OTHER_WORDS: Final = 12  # of each voice
NUM_NOISES: Final = 3
_TYPICAL_BYTES: Final = 28_000  # 0.9 s of 16-bit samples at 16 kHz
_JOINTS: Final = {
    "en": (" and ", " and ", " with ", ", "),
    "de": (" und ", " und ", " mit ", ", "),
    "fr": (" et ", " et ", " avec ", ", "),
}


@dataclass(frozen=True, slots=True)
class Utterance:
    """What is said and what it means: `text` names `labels`, in this order; or no text but a noise."""

    text: str
    labels: tuple[str, ...] = ()
    noise: str | None = None


@dataclass(frozen=True)
class TtsSource:
    """Source `tts`. `voices` different voices say `forms`, the spoken forms of each label, in a language.

    `engines` None: all that are installed. `held_out_engine` None: the one with the fewest voices (pico, then flite);
    "none": no engine, so that training hears all that speak here.
    Raises DataError for labels that cannot be spoken, no voices, a language without voices, or an engine that does not
    speak here.
    """

    forms: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: spoken_forms(UCMERCED_LABELS))
    voices: int = DEFAULT_NUM_VOICES
    seed: int = 0
    language: str = "en"
    engines: tuple[str, ...] | None = None
    held_out_engine: str | None = None

    def __post_init__(self) -> None:
        check_labels(tuple(self.forms))
        drawn = {voice.engine for voice in self.drawn_voices()}
        if self.held_out_engine not in (None, NO_ENGINE, *drawn):
            seen, expected = self.held_out_engine, ", ".join([*sorted(drawn), NO_ENGINE])
            raise DataError("the engine to hold out does not speak here", seen=seen, expected=expected)

    def drawn_voices(self) -> tuple[Voice, ...]:
        """The voices that speak, in the order of the items."""
        return draw_voices(self.voices, self.seed, language=self.language, engines=self.engines)

    def items(self) -> Iterator[Item]:
        """One item per utterance, voice by voice."""
        voices = self.drawn_voices()
        splits = fixed_splits(voices, self.seed, language=self.language, held_out_engine=self.held_out_engine)
        bases = sorted({voice.base_voice for voice in voices})
        others = [word for word in other_words(self.language) if word not in _all_forms(self.forms)]
        for voice in voices:
            own = others[bases.index(voice.base_voice) :: len(bases)]
            for utterance in utterances(self.forms, voice, self.seed, language=self.language, others=own):
                named = "+".join(utterance.labels) or utterance.noise or "-"
                yield Item(
                    key=f"{self.language}/{voice.name}/{named}/{utterance.text}",
                    scene_id=make_group_id("voice", voice.base_voice),
                    num_bytes=_TYPICAL_BYTES,
                    split=splits.get(voice.base_voice),
                    population="speech",
                    detail={"voice": voice, "utterance": utterance},
                )

    def rows(self, item: Item) -> Iterator[ShardRow]:
        """The utterance, spoken now. Raises DataError where its engine cannot."""
        voice, utterance = item.detail["voice"], item.detail["utterance"]
        yield speech_row(item, voice, utterance)


def speech_row(item: Item, voice: Voice, utterance: Utterance) -> ShardRow:
    """The row of one utterance; raises DataError where the voice's engine cannot speak it."""
    said = {"speaker": voice.base_voice, "voice": voice.name, "base_voice": voice.base_voice, "form": utterance.text}
    if utterance.noise is not None:
        said["noise"] = utterance.noise
        sound = noise(utterance.noise, zlib.crc32(item.key.encode()))
    else:
        sound = speak(voice, utterance.text)
    described = {key: value for key, value in asdict(voice).items() if key != "base"}
    return ShardRow(
        item_id=make_item_id("tts", item.key, "speech"),
        media=pcm_media(sound),
        scene_id=item.scene_id,
        source_uri=f"tts:{item.key}",
        labels=utterance.labels,
        attributes=json.dumps(said | described),
    )


def utterances(
    forms: Mapping[str, tuple[str, ...]],
    voice: Voice,
    seed: int,
    *,
    language: str = "en",
    others: Sequence[str] = (),
) -> Iterator[Utterance]:
    """Everything one voice says: each label in each form, then, once for each label, an utterance of several labels,
    then a few of the words of `others`, and noises.

    In an utterance of several each label comes first once; the others, the forms and the word between them are drawn
    from the seed.
    """
    for label, said_for_it in forms.items():
        for form in said_for_it:
            yield Utterance(form, (label,))
    drawer = random.Random(f"utterances {seed} {voice.name}")
    if len(forms) > 1:
        for first in forms:
            yield _of_several(first, forms, _JOINTS[language], drawer)
    for word in drawer.sample(others, min(NUM_OTHER_WORDS, len(others))):
        yield Utterance(word)
    for kind in drawer.sample(tuple(NOISES), NUM_NOISES):
        yield Utterance("", noise=kind)


def fixed_splits(
    voices: Sequence[Voice], seed: int, *, language: str = "en", held_out_engine: str | None = None
) -> dict[str, Split]:
    """The splits of base voices that are not drawn.

    In test stands all of the engine that is held out, or where only one speaks, one of its base voices. Of another
    engine beside espeak-ng, made of the voices of few people, the last base voice stands in val, so that val asks for
    more than accents of voices that training has heard, and the rest in train.
    """
    engines = {voice.engine for voice in voices}
    bases = sorted({voice.base_voice for voice in voices})
    if len(bases) < 2:
        return {}
    if len(engines) == 1:
        return {random.Random(f"held out {seed}").choice(bases): "test"}
    held_out = held_out_engine or next(name for name in reversed(SHARES) if name in engines)
    splits: dict[str, Split] = {}
    for engine in engines & SHARES.keys():
        *heard, last = (f"{engine}/{base}" for base in base_names(engine, language))
        splits |= {base: "train" for base in heard}
        splits[last] = "val" if heard else "train"
    splits |= {voice.base_voice: "test" for voice in voices if voice.engine == held_out}
    return {base: split for base, split in splits.items() if base in bases}


def _of_several(
    first: str, forms: Mapping[str, tuple[str, ...]], joints: tuple[str, ...], drawer: random.Random
) -> Utterance:
    """Two or three labels in one breath."""
    num_others = 2 if len(forms) > 2 and drawer.random() < THREE_LABEL_SHARE else 1
    labels = (first, *drawer.sample([label for label in forms if label != first], num_others))
    said = [drawer.choice(forms[label]) for label in labels]
    joint = drawer.choice(joints)
    return Utterance(", ".join(said[:-1]) + joint + said[-1], labels)


def _all_forms(forms: Mapping[str, tuple[str, ...]]) -> set[str]:
    return {form for said_for_it in forms.values() for form in said_for_it}
