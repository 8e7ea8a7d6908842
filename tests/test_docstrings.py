"""What the docstrings show is what happens: every example in them is run."""

import doctest
import importlib
import pkgutil

import pytest

import cmir
import jobs
import serve

MODULES = sorted(
    module.name
    for package in (cmir, jobs, serve)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__")
)


def examples_of(name: str) -> list[doctest.DocTest]:
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    for test in examples_of(name):
        results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL).run(test)
        assert results.failed == 0, test.name


def test_there_are_examples() -> None:
    assert sum(len(examples_of(name)) for name in MODULES) > 20
