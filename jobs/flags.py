"""The fields of a settings model as flags: what typer reads of them, and what a wrong flag is told.

All are optional to typer, which only collects what was given; what is missing or does not fit, the model says.
"""

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cmir.errors import ConfigError

# typer carries its own copy of click from 0.29 on; its public BadParameter leads to the class that all of them share
FlagError: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def function_of(config_type: type[BaseModel], collected: dict[str, Any]) -> Callable[..., int]:
    """A function whose signature typer reads flags from: one option per field, all optional, none with a default."""

    def collect(**given: Any) -> int:
        collected.update(given)
        return -1

    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[_flag_type(info.annotation), _option(name, info)],
        )
        for name, info in config_type.model_fields.items()
    ]
    option = typer.Option("--config", help="A YAML file with the same keys; flags win.")
    parameters.append(
        inspect.Parameter(
            "config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
        )
    )
    collect.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    collect.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return collect


def flag(name: str) -> str:
    """The flag of a field: `max_steps` is --max-steps."""
    return "--" + name.replace("_", "-")


def flags_of(name: str, info: FieldInfo) -> list[str]:
    """A field's flag, and beside one that is on by default the flag that turns it off."""
    return [flag(name), flag(f"no_{name}")] if info.default is True else [flag(name)]


def nearest(word: str, known: Sequence[str]) -> str:
    """What somebody who wrote `word` may have meant, else all there is."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def usage_message(error: Exception, config_type: type[BaseModel]) -> str:
    """What to say of an error of a settings model or of typer; of an unknown flag, the nearest one."""
    if isinstance(error, ConfigError):
        return str(error)
    unknown = getattr(error, "option_name", None)
    if type(error).__name__ == "NoSuchOption" and unknown:
        known = [one for name, info in config_type.model_fields.items() for one in flags_of(name, info)]
        known.append(flag("config"))
        return str(ConfigError(f"unknown flag {unknown}", fix=nearest(unknown, known)))
    message = getattr(error, "message", str(error))
    return f"{message} (a flag that takes several values is given several times)"


def _flag_type(annotation: Any) -> Any:
    """What typer reads: bool, list[str] (a flag given several times) or text; pydantic makes the rest of it."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
        return _flag_type(kinds[0]) if len(kinds) == 1 else str | None
    if annotation is bool:
        return bool | None
    return list[str] | None if origin in (tuple, list) else str | None


def _option(name: str, info: FieldInfo) -> Any:
    text = info.description or ""
    if not info.is_required() and info.default is not None and not isinstance(info.default, bool):
        default = ",".join(map(str, info.default)) if isinstance(info.default, tuple) else info.default
        text += f" [default: {default}]" if default != "" else ""
    return typer.Option(
        "/".join(flags_of(name, info)),
        metavar=_metavar(info.annotation),
        help=text + (" [required]" if info.is_required() else ""),
    )


def _metavar(annotation: Any) -> str | None:
    """`cpu|cuda` for a choice, URI-like upper case otherwise; None for a switch."""
    if annotation is bool:
        return None
    if typing.get_origin(annotation) is typing.Literal:
        return "|".join(map(str, typing.get_args(annotation)))
    return {int: "N", float: "X"}.get(annotation, "TEXT")
