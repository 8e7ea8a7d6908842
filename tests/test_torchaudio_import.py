"""torchaudio imports beside the torch that is here, with or without its compiled part."""

import subprocess
import sys

from cmir.archive.torchaudio_import import import_torchaudio


def test_the_parts_that_are_used_work() -> None:
    torchaudio = import_torchaudio()
    assert import_torchaudio() is torchaudio
    filters = torchaudio.functional.melscale_fbanks(257, 60.0, 7_600.0, 64, 16_000)
    assert filters.shape == (257, 64)
    assert (filters.amax(dim=0) > 0).all()


def test_a_loader_that_fails_is_replaced_whatever_torch_is_here() -> None:
    code = (
        "import torch\n"
        "def broken(path): raise OSError('libcudart.so: cannot open shared object file')\n"
        "torch.ops.load_library = broken\n"
        "from cmir.archive.torchaudio_import import import_torchaudio\n"
        "assert import_torchaudio().transforms.MFCC\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
