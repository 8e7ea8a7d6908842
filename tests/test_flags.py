"""Flags of a settings model: their names, what they take, and what a wrong one is told."""

from typing import Any, Literal

import pytest
import typer
from pydantic import BaseModel, Field

from jobs.flags import FlagError, flag, function_of, nearest, usage_message


class _Settings(BaseModel):
    """Settings with a field of every kind."""

    shards: tuple[str, ...] = Field(description="Several.")
    device: Literal["cpu", "cuda"] = Field("cpu", description="A choice.")
    max_steps: int | None = Field(None, description="A number.")
    resume: bool = Field(False, description="A switch.")
    thumbnails: bool = Field(True, description="A switch that is on.")


def read(*arguments: str) -> dict[str, Any]:
    collected: dict[str, Any] = {}
    command = typer.Typer(add_completion=False)
    command.command()(function_of(_Settings, collected))
    typer.main.get_command(command).main(list(arguments), standalone_mode=False)
    return {name: value for name, value in collected.items() if value is not None}


def test_every_field_is_a_flag_and_only_what_was_given_is_collected() -> None:
    assert read() == {}
    given = read("--shards", "a", "--shards", "b", "--device", "cuda", "--max-steps", "7", "--resume", "--config", "f")
    expected = {"shards": ["a", "b"], "device": "cuda", "max_steps": "7", "resume": True, "config": "f"}
    assert given == expected, "the model makes numbers of texts"


def test_what_is_on_can_be_turned_off() -> None:
    assert read("--no-thumbnails") == {"thumbnails": False}
    assert read("--thumbnails") == {"thumbnails": True}
    with pytest.raises(FlagError) as caught:
        read("--no-thumbnail")
    assert "did you mean --no-thumbnails?" in usage_message(caught.value, _Settings)


def test_a_wrong_flag_names_the_nearest() -> None:
    with pytest.raises(FlagError) as caught:
        read("--max-step", "7")
    assert "--max-steps" in usage_message(caught.value, _Settings)
    assert nearest("shard", list(_Settings.model_fields)) == "did you mean shards?"
    assert nearest("x", ["resume", "device"]) == "known: resume, device"
    assert flag("max_steps") == "--max-steps"
