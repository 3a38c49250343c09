# make report            simulate slices, train, run the notebooks, write report/index.html
# make report DATA=DIR   the same on your own slices (folder or .zip)
PYTHON ?= python3
VENV   ?= .venv
DATA   ?=
RUN    ?=
ARGS   ?=
BIN     = $(VENV)/bin

.PHONY: setup report test test-long lint bench badges floors audit
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

# the fast tests with the lowest versions that pyproject.toml admits
floors:
	$(PYTHON) -m venv $(VENV)-floors/tools
	$(VENV)-floors/tools/bin/python -m pip install --quiet uv
	$(VENV)-floors/tools/bin/uv venv --quiet --clear --seed --python $(PYTHON) $(VENV)-floors/lowest
	$(VENV)-floors/tools/bin/uv pip install --quiet --python $(VENV)-floors/lowest --resolution lowest-direct --editable ".[notebook,dev]"
	$(VENV)-floors/lowest/bin/python -m pytest -m "not long" $(ARGS)

# known vulnerabilities of what is installed; a package that cannot be looked up fails, so that silence is an answer
audit: setup
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet pip-audit
	$(VENV)-audit/bin/pip-audit --skip-editable --strict --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

# after a new address in pyproject.toml: the badge and the set-up cell of every notebook
badges: setup
	$(BIN)/python -m stylegan.reporting.badges
