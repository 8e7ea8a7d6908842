"""The shape of the code: what imports what, how long a module is, what the package names."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cmir

ROOT = Path(__file__).parent.parent
MODULES = sorted(path for folder in ("cmir", "jobs", "serve") for path in (ROOT / folder).rglob("*.py"))
LINE = ("archive", "network", "gallery", "evaluation")


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_importing_cmir_loads_neither_ray_nor_torch() -> None:
    code = "import sys, cmir; sys.exit(any(name in sys.modules for name in ('ray', 'torch', 'fastapi', 'lance')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_package_names_few_sorted_things_that_exist() -> None:
    assert cmir.__all__ == sorted(cmir.__all__)
    assert len(cmir.__all__) <= 15
    for name in cmir.__all__:
        assert getattr(cmir, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing_such"):
        cmir.nothing_such  # noqa: B018


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_the_right_way(path: Path) -> None:
    parts, imports = path.relative_to(ROOT).parts, _imports(path)
    tops = {name.split(".")[0] for name in imports}
    if parts[0] == "cmir":
        assert not tops & {"ray", "fastapi", "jobs", "serve"}
    if parts[0] in ("jobs", "serve"):
        assert ({"jobs": "serve", "serve": "jobs"}[parts[0]]) not in tops
    if len(parts) > 2 and parts[1] in LINE:
        allowed = set(LINE[: LINE.index(parts[1]) + 1]) | {"errors", "lone_process"}
        reached = {name.split(".")[1] for name in imports if name.startswith("cmir.")}
        assert reached <= allowed


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_short_and_say_what_they_are(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert not text.strip() or ast.get_docstring(ast.parse(text))


def test_every_package_is_listed_for_the_wheel() -> None:
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in MODULES if path.name == "__init__.py"}
    assert found == listed
