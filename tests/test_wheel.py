"""What is installed: the wheel holds the three packages, their data files, and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in tracked.stdout.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), "."]
    subprocess.run(command, cwd=copy, check=True)
    (wheel,) = folder.glob("cmir-*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_ships_library_jobs_and_service(names: set[str]) -> None:
    for folder in ("cmir", "jobs", "serve"):
        modules = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.py")}
        assert modules <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"cmir", "jobs", "serve"}


def test_the_wheel_ships_what_is_read_at_run_time(names: set[str]) -> None:
    files = {
        str(path.relative_to(ROOT))
        for pattern in ("cmir/**/*.yaml", "cmir/**/*.html", "cmir/**/*.css", "serve/web/*", "cmir/py.typed")
        for path in ROOT.glob(pattern)
    }
    assert len(files) >= 7
    assert files <= names
