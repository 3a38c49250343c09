# make report            simulate slices, train, run the notebooks, write report/index.html
# make report DATA=DIR   the same on your own slices (folder or .zip)
PYTHON ?= python3
VENV   ?= .venv
DATA   ?=
RUN    ?=
ARGS   ?=
BIN     = $(VENV)/bin

.PHONY: setup report test test-long lint bench badges
setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[notebook,dev]"
	touch $@

report: setup
	$(BIN)/python -m stylegan report $(if $(DATA),--data "$(DATA)") $(if $(RUN),--run-dir "$(RUN)") $(ARGS)

test: setup
	$(BIN)/python -m pytest -m "not long" $(ARGS)

test-long: setup
	$(BIN)/python -m pytest $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: setup
	$(BIN)/python -m stylegan bench $(ARGS)

# after a new address in pyproject.toml: the badge and the set-up cell of every notebook
badges: setup
	$(BIN)/python -m stylegan.reporting.badges
