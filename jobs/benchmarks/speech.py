"""Whether a tower that has heard synthetic voices alone understands people: words named right, by the commands.

No recordings of the labels by people are at hand, so three other vocabularies stand in for them, each with a network of
its own that hears nothing but synthetic voices: ten English digits, and German and French words. `--input` is a folder
of recordings by people as spoken_words.yaml describes it (fsdd, gcompris/de, gcompris/fr): people are asked, and every
voice is trained on, of which German and French have few. Without one, the synthetic voices that were held out are
asked, and the figures say so.

`--second-ear` hears the same recordings beside the towers, as a yardstick: a recogniser trained on people, told which
words there are. With `--skip-training` it is all that is measured.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cmir.archive import storage
from cmir.archive.sources.speech import SUFFIXES
from cmir.errors import ConfigError
from cmir.evaluation.naming import NamingFigures
from cmir.evaluation.report import read_report
from cmir.network.ear_opening import open_ear
from cmir.network.second_ear import SecondEar
from cmir.network.sphinx_ear import POCKETSPHINX
from jobs import entrypoint
from jobs.benchmarks.quality import Step, StepFigures, run_step, work_folder
from jobs.benchmarks.record import BenchmarkConfig, Findings, Run
from jobs.benchmarks.yardstick import interval_text, yardstick
from jobs.entrypoint import JobResult

_MOST_OTHERS: Final = 40  # recordings of another task that stand for words without a label
_TARGETS: Final = {"digits": 0.9, "german": 0.7, "french": 0.7}  # of words by people named right


class SpeechBenchmark(BenchmarkConfig):
    """Measure how well people are understood by towers that were trained on synthetic voices."""

    input: str | None = Field(None, description="Folder of recordings by people; held-out voices alone otherwise.")
    tasks: str = Field("digits,german,french", description="Which vocabularies, a,b,c.")
    work: str | None = Field(None, description="Folder for archives, bundles and reports; beside --output otherwise.")
    max_minutes: float = Field(17.0, gt=0, description="Minutes of training of each tower.")
    voices: int = Field(64, gt=0, description="Synthetic voices.")
    seed: int = Field(0, ge=0, description="Seed of voices and training.")
    second_ear: str | None = Field(
        None, description="Yardstick: pocketsphinx (English tasks alone), or a folder or hub id of transformers."
    )
    skip_training: bool = Field(False, description="Measure the second ear alone.")

    @model_validator(mode="after")
    def _has_something_to_do(self) -> Self:
        if self.skip_training and self.second_ear is None:
            raise ValueError("--skip-training measures the second ear alone: give --second-ear")
        if self.second_ear is not None and self.input is None:
            raise ValueError("--second-ear hears recordings by people: give --input")
        return self

    def uris(self) -> list[str]:
        return [*super().uris(), *(uri for uri in (self.input, self.work) if uri is not None)]


class SpokenTask(BaseModel):
    """A vocabulary and where its recordings lie: spoken forms by label, and labels that share the word of another."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    language: str
    recordings: str
    separator: str
    forms: dict[str, tuple[str, ...]]
    same: dict[str, str] = Field(default_factory=dict)

    def label_of(self, name: str) -> str | None:
        """The label that a file's name tells; None where it is no label of this task."""
        label = name.split(self.separator)[0]
        label = self.same.get(label, label)
        return label if label in self.forms else None


class WordFigures(Findings):
    """Words of one task by one kind of speaker: `named_right`, the share whose nearest label is theirs.

    `auroc` tells words that name a label from those that name none: of voices, other words and noises; of people, the
    words of the other tasks. `target` is what is to be reached by people.
    """

    task: str
    spoken_by: str
    num_utterances: int
    named_right: float | None
    ci95: str | None
    chance: float
    auroc: float | None
    target: float | None
    is_met: bool | None


@dataclass(frozen=True)
class Recording:
    """A file, the label it names (empty: none of the task's), and who speaks."""

    uri: str
    label: str
    speaker: str


def run(config: SpeechBenchmark) -> JobResult:
    """Shard, train, ask, read the reports, write."""
    with entrypoint.before_work():
        running = Run("speech", config)
        tasks = {name: _task(name) for name in _names(config.tasks)}
        found = {name: recordings(task, config.input) for name, task in tasks.items() if config.input is not None}
        asked_with = {name: with_other_words(name, found) for name in found}
        ears = _open_ears(config.second_ear, tasks)
        work = Path(work_folder(config.work, config.output))
    figures, seconds = [], []
    yardsticks = []
    for name, ear in ears.items():
        asked_of = [(one.uri, one.label) for one in asked_with[name]]
        yardsticks.append(yardstick(name, ear, tuple(tasks[name].forms), asked_of, seed=config.seed))
    for name, task in ({} if config.skip_training else tasks).items():
        folder = work / name
        _write_inputs(folder, task, asked_with.get(name, []))
        for step in steps_of(config, task, folder, has_recordings=name in found):
            seconds.append(StepFigures(step=f"{name}: {step.job} {step.name}", seconds=run_step(step)))
        spoken_by, report = ("people", "by-people") if name in found else ("held-out voices", "by-voices")
        figures.append(_figures(name, spoken_by, read_report(str(folder / report)).naming, len(task.forms)))
    headline = {f"{one.task} by {one.spoken_by}": one.named_right for one in figures}
    headline |= {f"{one.task} by people, second ear": one.guessed_right for one in yardsticks}
    found_by: dict[str, Sequence[Findings]] = {"words": figures, "second ear": yardsticks, "steps": seconds}
    return running.finish({name: rows for name, rows in found_by.items() if rows}, headline)


def steps_of(config: SpeechBenchmark, task: SpokenTask, folder: Path, *, has_recordings: bool) -> Iterator[Step]:
    """The commands of one task; run again, each replaces what it made before."""
    voices, people, bundle = (str(folder / name) for name in ("voices", "people", "bundle"))
    seed, again = ("--seed", str(config.seed)), ("--overwrite",)
    said = ("--labels", str(folder / "labels.txt"), "--language", task.language, "--voices", str(config.voices))
    heard = ("--split", "train") if has_recordings else ()
    yield Step("shard", "voices", ("--source", "tts", *said, *seed, *heard, "--output", voices, *again))
    minutes = ("--max-minutes", str(config.max_minutes))
    yield Step("train", "bundle", ("--shards", voices, *minutes, *seed, "--output", bundle, *again))
    asked, name = voices, "by-voices"
    if has_recordings:
        asked, name = people, "by-people"
        manifest = ("--input", str(folder / "manifest.csv"), "--split", "test")
        yield Step("shard", "people", ("--source", "speech", *manifest, "--output", people, *again))
    output = ("--output", str(folder / name))
    yield Step("evaluate", name, ("--bundle", bundle, "--shards", asked, *output, *again))


def _open_ears(second_ear: str | None, tasks: Mapping[str, SpokenTask]) -> dict[str, SecondEar]:
    """An ear for each task; pocketsphinx for those in English."""
    if second_ear is None:
        return {}
    heard = {name: task for name, task in tasks.items() if second_ear != POCKETSPHINX or task.language == "en"}
    if not heard:
        seen, expected = f"{second_ear} for {', '.join(tasks)}", "a task in English"
        raise ConfigError("the second ear knows English alone", seen=seen, expected=expected, fix="add --tasks digits")
    return {name: open_ear(second_ear, task.forms) for name, task in heard.items()}


def recordings(task: SpokenTask, input_uri: str) -> list[Recording]:
    """The recordings of a task below a folder, in the order of their names.

    Raises ConfigError where there is none whose name tells a label of the task.
    """
    place = storage.join(storage.absolute(input_uri), task.recordings)
    found = []
    for file in storage.list_files(place):
        name = storage.name_of(file.uri)
        label = task.label_of(name)
        if label is not None and name.lower().endswith(SUFFIXES):
            parts = name.split("_")
            found.append(Recording(file.uri, label, parts[1] if len(parts) > 2 else ""))
    if not found:
        expected = f"files whose name begins with one of {', '.join(task.forms)}"
        raise ConfigError("no recordings", seen="none", expected=expected, where=place)
    return sorted(found, key=lambda one: one.uri)


def with_other_words(task: str, found: Mapping[str, list[Recording]]) -> list[Recording]:
    """The recordings of a task, and of every other task as many as show, which name nothing in this one."""
    others = [one for name, of_it in found.items() if name != task for one in of_it[:: -(-len(of_it) // _MOST_OTHERS)]]
    return [*found[task], *(replace(one, label="") for one in others)]


def _write_inputs(folder: Path, task: SpokenTask, found: list[Recording]) -> None:
    """labels.txt for the voices and manifest.csv of the recordings."""
    lines = "".join(f"{label}: {', '.join(forms)}\n" for label, forms in task.forms.items())
    storage.put_atomic(str(folder / "labels.txt"), lines.encode())
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(("path", "labels", "speaker"))
    writer.writerows((one.uri, one.label, one.speaker) for one in found)
    storage.put_atomic(str(folder / "manifest.csv"), table.getvalue().encode())


def _figures(task: str, spoken_by: str, naming: NamingFigures | None, num_labels: int) -> WordFigures:
    right = None if naming is None else naming.named_right
    target = _TARGETS[task] if spoken_by == "people" else None
    return WordFigures(
        task=task,
        spoken_by=spoken_by,
        num_utterances=0 if naming is None else naming.num_utterances,
        named_right=right,
        ci95=None if naming is None else interval_text(naming.named_right_ci95),
        chance=1 / num_labels,
        auroc=None if naming is None or naming.rejection is None else naming.rejection.auroc,
        target=target,
        is_met=None if target is None else right is not None and right >= target,
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _task(name: str) -> SpokenTask:
    if name not in _tasks():
        raise ConfigError("unknown task", seen=name, expected=", ".join(_tasks()), fix="see --tasks in --help")
    return _tasks()[name]


@cache
def _tasks() -> dict[str, SpokenTask]:
    text = resources.files("jobs.benchmarks").joinpath("spoken_words.yaml").read_text(encoding="utf-8")
    return {name: SpokenTask.model_validate(told) for name, told in yaml.safe_load(text).items()}
