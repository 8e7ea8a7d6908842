"""Every command, target, route and file that the README names exists and takes the flags shown."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cmir import cli
from cmir.archive.sources import __path__ as source_folders
from jobs import embed, evaluate, index, shard, train

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONFIGS: dict[str, Any] = {
    "shard": shard.ShardConfig,
    "train": train.TrainConfig,
    "embed": embed.EmbedConfig,
    "index": index.IndexConfig,
    "evaluate": evaluate.EvaluateConfig,
}
JOB_LINES = re.findall(r"python jobs/(\w+)\.py +(-[^\n`]*)", README.replace("\n--", " --"))


def test_the_two_commands_stand_first() -> None:
    commands = re.findall(r"^    (make \w+)", README, re.MULTILINE)
    assert commands[:2] == ["make demo", "make test"]


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make (\w+)", README)) - {"needs"}))
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("job", "flags"), JOB_LINES)
def test_job_lines_use_flags_that_exist(job: str, flags: str) -> None:
    if "--help" in flags:
        return
    known = {"--" + name.replace("_", "-") for name in CONFIGS[job].model_fields}
    used = {word for word in shlex.split(flags) if word.startswith("--")}
    assert used <= known
    values: dict[str, Any] = {}
    words = shlex.split(flags)
    for i, word in enumerate(words):
        if word.startswith("--"):
            follower = words[i + 1] if i + 1 < len(words) and not words[i + 1].startswith("--") else True
            values[word[2:].replace("-", "_")] = [follower] if word == "--shards" else follower
    CONFIGS[job].model_validate(values)


def test_all_jobs_are_shown() -> None:
    assert {job for job, _ in JOB_LINES} == set(CONFIGS)


def test_cmir_subcommands_exist() -> None:
    commands = set(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]
    shown = set(re.findall(r"(?:^    |`)cmir ([a-z]+)", README, re.MULTILINE))
    assert shown == commands - {"demo"}
    assert commands == {"demo", "serve", "search", "embed", "info", "validate", "export", "doctor"}


def test_routes_exist() -> None:
    paths = set(json.loads((ROOT / "tests" / "golden" / "openapi.json").read_text())["paths"])
    shown = set(re.findall(r"(/v1/[a-z/]+|/readyz)", README))
    assert shown
    assert shown <= paths


def test_sources_exist() -> None:
    line = re.search(r"Sources: ([^;]+);", README)
    assert line is not None
    named = set(re.findall(r"`(\w+)`", line[1]))
    files = {path.stem for path in Path(source_folders[0]).glob("*.py")}
    assert named <= files
    assert named == set(shard.SourceName.__args__)  # type: ignore[attr-defined]


def test_files_and_links_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    for folder in re.findall(r"`(deploy/[\w/-]+)`", README):
        assert (ROOT / folder / "kustomization.yaml").exists(), folder
