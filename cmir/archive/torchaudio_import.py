"""torchaudio, beside any torch: the one place of the project that imports it.

Every torchaudio wheel of PyPI links CUDA libraries, so that beside a CPU build of torch its compiled extension does not
load and the import fails. What is used here (mel spectrograms) is written in Python on torch operators and needs no
extension: only when the normal import fails, the loader of the extension is replaced by one that loads nothing, and
torchaudio is imported again. Beside a CUDA build of torch the import is the normal one.
"""

import importlib
import sys
import types

_LOADER = "torchaudio._extension.utils"


def import_torchaudio() -> types.ModuleType:
    """The module torchaudio. Raises ImportError where it is not installed or fails for another reason."""
    try:
        return importlib.import_module("torchaudio")
    except ModuleNotFoundError:
        raise
    except (ImportError, OSError):  # a shared CUDA library is missing: torch raises OSError, torchaudio ImportError
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
            del sys.modules[name]
    sys.modules[_LOADER] = _loader_of_nothing()
    return importlib.import_module("torchaudio")


def _loader_of_nothing() -> types.ModuleType:
    """Stands for torchaudio's own module of the same name: says that there is no extension to load."""
    module = types.ModuleType(_LOADER)

    def load_lib(lib: str) -> bool:
        return False

    def nothing() -> None:
        return None

    vars(module).update(_load_lib=load_lib, _check_cuda_version=nothing, _init_dll_path=nothing)
    return module
