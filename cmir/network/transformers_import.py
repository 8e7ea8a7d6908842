"""transformers, an optional package: the one place of the project that imports it, and only when a tower needs it.

Its modules import torchaudio where that is installed, which beside a CPU build of torch works by torchaudio_import
alone; so that one comes first. Its progress bars and reports of tensors left out are turned off: what of them matters
is an error of ours.
"""

import contextlib
import importlib
import types
from collections.abc import Iterator

from cmir.archive.torchaudio_import import import_torchaudio
from cmir.errors import CmirError, ConfigError


def import_transformers() -> types.ModuleType:
    """The module transformers. Raises ConfigError where it is not installed."""
    import_torchaudio()
    try:
        module = importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise ConfigError(
            "a pretrained tower needs the package transformers",
            seen="not installed",
            expected="the extra `pretrained`",
            fix="pip install 'cmir[pretrained]', or build the image with --build-arg EXTRAS=pretrained",
        ) from error
    module.logging.set_verbosity_error()
    module.logging.disable_progress_bar()
    return module


@contextlib.contextmanager
def refused(what: str, *, where: str, expected: str | None = None, fix: str | None = None) -> Iterator[None]:
    """Around calls of transformers and of the hub's client, and nothing else: whatever they raise is a ConfigError.

    Neither says what it raises: OSError, ValueError, RuntimeError, StrictDataclassError, SafetensorError, ...
    """
    try:
        yield
    except CmirError:
        raise
    except Exception as error:  # the border to a library: see above
        first_line = next(iter(str(error).splitlines()), "")
        seen = f"{type(error).__name__}: {first_line}"
        raise ConfigError(what, seen=seen, expected=expected, where=where, fix=fix) from error
