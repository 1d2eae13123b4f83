# Each target makes the environment that it needs. `make quickstart` and `make test` are all that a new user types.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart poet-zh test test-slow check format bench docs clean

quickstart: $(VENV)/.installed-main
	$(BIN)/fromzero quickstart

# The texts come from the npm package chinese-poetry; npm is needed for that.
poet-zh: $(VENV)/.installed-main
	npm install --prefix data --no-audit --no-fund chinese-poetry@2
	$(BIN)/fromzero run recipes/poet-zh.yaml

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow"

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check src tests bench
	$(BIN)/ruff check src tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff format src tests bench
	$(BIN)/ruff check --fix src tests bench

# bench/README.md says what each one measures, and where to get the peers that they run beside. transformers is there;
# further ones are named: make bench PEERS='--nanogpt FOLDER --nanochat FOLDER --litgpt PYTHON'
bench: $(VENV)/.installed-bench
	$(BIN)/python bench/training.py $(PEERS)
	$(BIN)/python bench/quickstart_memory.py

docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build site .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "fromzero needs Python 3.11 or newer; name one with: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of extras, renewed when the requirements change.
$(VENV)/.installed-main: EXTRAS = corpus,track
$(VENV)/.installed-dev: EXTRAS = dev
$(VENV)/.installed-bench: EXTRAS = corpus,track,bench
$(VENV)/.installed-docs: EXTRAS = docs
$(VENV)/.installed-%: pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@
