# Every target sets up what it needs: a virtual environment in .venv with the versions of constraints.txt.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
OUTPUT ?= demo-output
PORT ?= 8000

.PHONY: setup demo serve test test-slow test-long check bench clean
.DEFAULT_GOAL := demo

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m pip install -q -q --disable-pip-version-check -c constraints.txt -e '.[voices]' 2> /dev/null \
	  || echo "no C compiler: the speech engine Pico is left out, espeak-ng speaks alone"
	@touch $(READY)

# make demo                       a generated world, under 8 minutes on 2 cores
# make demo DATA=<UC Merced dir>  the real set, about 25 minutes
demo: $(READY)
	$(BIN)/cmir demo --output $(OUTPUT) $(if $(DATA),--data $(DATA))

serve: $(READY)
	$(BIN)/cmir serve --gallery $(OUTPUT)/gallery --port $(PORT)

test: $(READY)
	$(BIN)/python -m pytest

test-slow: $(READY)
	$(BIN)/python -m pytest -m "slow and not long"

test-long: $(READY)
	$(BIN)/python -m pytest -m long

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) test

bench: $(READY)
	$(BIN)/python jobs/benchmark.py quality --output $(OUTPUT)/benchmark.json

clean:
	rm -rf $(OUTPUT) .pytest_cache .ruff_cache .mypy_cache
