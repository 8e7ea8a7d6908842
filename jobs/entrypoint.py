"""A frozen settings model becomes a command: flags, --config, environment, exit codes and the last line of JSON.

Flags win over `CMIR_<JOB>_<FIELD>`, which wins over `--config FILE.yaml`, which wins over the model's defaults; an
unknown key anywhere is refused and the nearest one named. Exit 0 done, 2 refused before work began, 1 failed during it.
Logs and progress go to stderr; stdout carries one JSON object, last.
"""

import contextlib
import difflib
import errno
import importlib
import inspect
import json
import logging
import os
import re
import sys
import time
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import typer
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from cmir.archive import storage
from cmir.errors import CmirError, ConfigError, DataError
from jobs import signals
from jobs.flags import FlagError, flag, function_of, nearest, usage_message

log = logging.getLogger("cmir")


_WAYS_OUT: Final = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, the quota is used up",
    errno.EACCES: "allow this user to write there, or choose another place",
    errno.EPERM: "allow this user to write there, or choose another place",
    errno.EROFS: "choose a place that may be written",
}


class JobConfig(BaseModel):
    """Settings of a job; a subclass's fields are its flags, their descriptions its help."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def uris(self) -> list[str]:
        """Every URI among the settings, for checks that hold for all of them."""
        found: list[str] = []
        for name in ("input", "output", "shards", "bundle", "gallery", "init_from", "compare"):
            value = getattr(self, name, None)
            found += [value] if isinstance(value, str) else list(value or ())
        return found


@dataclass(frozen=True)
class JobResult:
    """What a job did: `outputs` names places, `counts` and `details` go into the JSON line as they are."""

    outputs: dict[str, str]
    counts: dict[str, int | float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def before_work() -> Iterator[None]:
    """What fails in here refuses the job (exit 2): its input was looked at, nothing was begun."""
    try:
        yield
    except ConfigError:
        raise
    except CmirError as error:
        raise ConfigError(
            error.what, seen=error.seen, expected=error.expected, where=error.where, fix=error.fix
        ) from error


class TooManyRejectedError(DataError):
    """More rows than allowed were quarantined; `result` is what the job did all the same."""

    result = JobResult({})


def check_reject_ratio(num_rejected: int, num_input: int, limit: float, quarantine_uri: str, result: JobResult) -> None:
    """Raises TooManyRejectedError (exit 1) where more than `limit` of all rows were rejected."""
    if not num_input or num_rejected / num_input <= limit:
        return
    error = TooManyRejectedError(
        "too many rows rejected",
        seen=f"{num_rejected} of {num_input} ({num_rejected / num_input:.1%})",
        expected=f"at most {limit:.1%}",
        where=quarantine_uri,
        fix="read the reasons there, or raise --max-reject-ratio",
    )
    error.result = result
    raise error


Config = TypeVar("Config", bound=JobConfig)


def main(job: str, config_type: type[Config], run: Callable[[Config], JobResult]) -> None:
    """Run a job as a command of its own; ends the process with the job's exit code."""
    sys.exit(run_command(job, config_type, run, sys.argv[1:]))


def run_command(
    job: str,
    config_type: type[Config],
    run: Callable[[Config], JobResult],
    arguments: list[str],
    *,
    program: str | None = None,
) -> int:
    """Read the arguments, run the job, print its JSON line; returns the exit code. `program` is the name in --help."""
    with signals.interrupted_by_sigterm():
        return _run_command(job, config_type, run, arguments, program)


def _run_command(
    job: str,
    config_type: type[Config],
    run: Callable[[Config], JobResult],
    arguments: list[str],
    program: str | None,
) -> int:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    started, program = time.monotonic(), program or f"{job}.py"
    collected: dict[str, Any] = {}
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    command.command(name=job, help=inspect.getdoc(config_type))(function_of(config_type, collected))
    try:
        if typer.main.get_command(command).main(arguments, prog_name=program, standalone_mode=False) == 0:
            return 0  # --help printed its page
        config = resolve(job, config_type, collected)
        _refuse_relative_uris(config)
    except typer.Exit as ended:
        return ended.exit_code
    except KeyboardInterrupt:
        return _end(job, started, "interrupted", 1, "interrupted before work began")
    except (ConfigError, FlagError) as error:
        return _end(job, started, "refused", 2, usage_message(error, config_type))
    return _run(job, started, config, run)


@dataclass(frozen=True)
class Choice:
    """One of the commands of a job that has several: the module whose `run` it is, and the settings' class there.

    Imported when it is chosen, so that one which needs no Ray runs where there is none.
    """

    module: str
    config_name: str

    def load(self) -> tuple[type[JobConfig], Callable[[Any], JobResult]]:
        """The settings' class and what runs."""
        module = importlib.import_module(self.module)
        return getattr(module, self.config_name), module.run


def run_choice(job: str, choices: Mapping[str, Choice], arguments: list[str]) -> int:
    """As `run_command`, of the choice that the first argument names."""
    name = arguments[0] if arguments else "nothing"
    if name in choices:
        config_type, run = choices[name].load()
        return run_command(job, config_type, run, arguments[1:], program=f"{job}.py {name}")
    usage = f"{job}.py {'|'.join(choices)} [flags]; {job}.py {next(iter(choices))} --help lists its flags"
    if name in ("--help", "-h"):
        print(usage)
        return 0
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.4) if arguments else []
    error = ConfigError("unknown command", seen=name, expected=" or ".join(close or choices), fix=usage)
    return _end(job, time.monotonic(), "refused", 2, str(error))


def resolve(job: str, config_type: type[Config], flags: Mapping[str, Any]) -> Config:
    """The job's settings from flags (those given), environment, --config and defaults.

    Raises ConfigError for an unknown key (naming the nearest), an unreadable file or a value that does not fit.
    """
    given = {name: value for name, value in flags.items() if value is not None and name != "config"}
    values = {**_from_file(flags.get("config"), config_type), **_from_environment(job, config_type), **given}
    try:
        return config_type.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        named = flag(".".join(str(part) for part in first["loc"]))
        if first["type"] == "missing":
            raise ConfigError(f"{named} is missing", fix=f"give {named}, see --help") from error
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:  # several flags that do not go together: the message names them
            raise ConfigError(message, fix="see --help") from error
        raise ConfigError(
            f"{named} does not fit: {message}", seen=repr(first.get("input")), fix="see --help"
        ) from error


def _run(job: str, started: float, config: Config, run: Callable[[Config], JobResult]) -> int:
    result = JobResult({})
    failure: tuple[str, int, str] | None = None
    try:
        result = run(config)
    except ConfigError as error:
        failure = "refused", 2, str(error)
    except (CmirError, OSError) as error:
        failure = "failed", 1, _told(error)
        result = getattr(error, "result", result)
    except KeyboardInterrupt:
        failure = "interrupted", 1, "interrupted; the same command goes on where it can be resumed"
    except Exception as error:  # the process border: whatever happened becomes a last line and an exit code
        if (known := _known_cause(error)) is not None:
            failure = "failed", 1, str(known)
        else:
            log.exception("%s failed", job)
            failure = "failed", 1, f"{type(error).__name__}: {error}"
    with signals.ignored():  # what is left takes a second or two and says how the job ended
        _stop_ray()  # before the last line: Ray forwards what workers print
        if failure is not None:
            return _end(job, started, *failure, result)
        rates: dict[str, Any] = {}
        seconds = time.monotonic() - started
        if "num_rows_committed" in result.counts:
            rates["rows_per_s"] = round(result.counts["num_rows_committed"] / max(seconds, 1e-9), 2)
        line = {"job": job, "status": "ok", "seconds": round(seconds, 2), "outputs": result.outputs}
        print(json.dumps({**line, **result.counts, **rates, **result.details}), flush=True)
        return 0


def _end(job: str, started: float, status: str, code: int, message: str, result: JobResult | None = None) -> int:
    """Say why a job did not end well; the JSON line holds what it had done by then."""
    done = result or JobResult({})
    print(f"{job}: {message}", file=sys.stderr, flush=True)
    seconds = round(time.monotonic() - started, 2)
    line = {"job": job, "status": status, "seconds": seconds, "outputs": done.outputs, **done.counts}
    print(json.dumps({**line, "error": message}), flush=True)
    return code


def _known_cause(error: BaseException | None) -> CmirError | None:
    """What one of our own errors said, where Ray or a library wrapped it."""
    while error is not None and not isinstance(error, CmirError):
        error = getattr(error, "cause", None) or error.__cause__
    return error


def _told(error: CmirError | OSError) -> str:
    """What a person reads; of the system's own errors also what to do, and no place in a library's source.

    >>> _told(OSError("LanceError(IO): cannot put a.lance: No space left on device (os error 28), /b/src/io.rs:9:1"))
    'LanceError(IO): cannot put a.lance: No space left on device (os error 28). To mend it: make room there'
    """
    if isinstance(error, CmirError):
        return str(error)
    text = re.sub(r",? /\S+\.rs:\d+(:\d+)?", "", str(error))
    number = re.search(r"\(os error (\d+)\)", text)
    fix = _WAYS_OUT.get(int(number[1]) if number else error.errno or 0)
    return str(CmirError(text, fix=fix))


def _stop_ray() -> None:
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def _from_file(path: str | None, config_type: type[JobConfig]) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        values = yaml.safe_load(storage.read_bytes(path)) or {}
    except (CmirError, yaml.YAMLError) as error:
        raise ConfigError("--config cannot be read", seen=error, expected="a YAML file", where=path) from error
    if not isinstance(values, dict):
        raise ConfigError("--config holds no keys", seen=type(values).__name__, expected="a mapping", where=path)
    named = {str(key).replace("-", "_"): value for key, value in values.items()}
    for key in named:
        if key not in config_type.model_fields:
            raise ConfigError(f"unknown key {key!r}", where=path, fix=nearest(key, list(config_type.model_fields)))
    return named


def _from_environment(job: str, config_type: type[JobConfig]) -> dict[str, Any]:
    prefix = f"CMIR_{job.upper()}_"
    values: dict[str, Any] = {}
    for variable, text in os.environ.items():
        if not variable.startswith(prefix):
            continue
        name = variable.removeprefix(prefix).lower()
        if name not in config_type.model_fields:
            known = [prefix + field.upper() for field in config_type.model_fields]
            raise ConfigError(f"unknown variable {variable}", fix=nearest(variable, known))
        several = typing.get_origin(config_type.model_fields[name].annotation) in (tuple, list)
        values[name] = [part for part in text.split(",") if part] if several else text
    return values


def _refuse_relative_uris(config: JobConfig) -> None:
    """Inside a submitted job a relative path lies in a temporary copy of the working directory and is lost with it."""
    if not os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        return
    for uri in config.uris():
        if not storage.is_s3(uri) and not storage.local_path(uri).is_absolute():
            fix = "give an absolute path that all nodes see, or s3://"
            raise ConfigError("relative URI in a submitted job", seen=uri, expected="an absolute URI", fix=fix)
