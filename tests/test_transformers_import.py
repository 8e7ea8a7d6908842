"""Without the optional package a pretrained tower is refused by name; the rest of the project does not load it."""

import subprocess
import sys
from pathlib import Path

import pytest

from cmir.errors import ConfigError
from cmir.network.transformers_import import import_transformers, refused


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"needs the package transformers.*pip install 'cmir\[pretrained\]'"):
        import_transformers()


def test_own_towers_do_not_load_it() -> None:
    code = (
        "import sys, cmir.network.pretrained_training, cmir.network.embedder\n"
        "from cmir.network.model import NetworkConfig, SharedSpaceNet\n"
        "SharedSpaceNet(NetworkConfig(modalities=('rgb', 'speech')))\n"
        "sys.exit(any(name in sys.modules for name in ('transformers', 'huggingface_hub')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=False).returncode == 0


def test_whatever_a_library_raises_is_a_refusal_and_ours_stays_ours() -> None:
    with pytest.raises(ConfigError, match=r"cannot read: seen KeyError: 'x' \(a\)"), refused("cannot read", where="a"):
        raise KeyError("x")
    with pytest.raises(ConfigError, match=r"^mine$"), refused("cannot read", where="a"):
        raise ConfigError("mine")
