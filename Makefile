# make report            simulate slices, train, run the notebooks, write report/index.html
# make report DATA=DIR   the same on your own slices (folder or .zip)
PYTHON ?= python3
VENV   ?= .venv
DATA   ?=
RUN    ?=
ARGS   ?=
BIN     = $(VENV)/bin
UV      = $(VENV)-others/tools/bin/uv

.PHONY: setup report test test-long lint bench badges floors colab audit
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
	$(BIN)/python benchmarks/speed.py $(ARGS)

# the fast tests with the lowest versions that pyproject.toml admits
floors: $(VENV)-others
	$(UV) venv --quiet --clear --seed --python $(PYTHON) $(VENV)-others/lowest
	$(UV) pip install --quiet --python $(VENV)-others/lowest --resolution lowest-direct --editable ".[notebook,dev]"
	$(VENV)-others/lowest/bin/python -m pytest -m "not long" $(ARGS)

# the same with what Colab has: PYTHON=python3.13 make colab
colab: $(VENV)-others
	$(UV) venv --quiet --clear --seed --python $(PYTHON) $(VENV)-others/colab
	$(UV) pip install --quiet --python $(VENV)-others/colab --requirement tests/colab.txt --editable ".[notebook,dev]"
	$(VENV)-others/colab/bin/python -m pytest -m "not long" $(ARGS)

$(VENV)-others:
	$(PYTHON) -m venv $@/tools
	$@/tools/bin/python -m pip install --quiet uv

# known vulnerabilities of what is installed; a package that cannot be looked up fails, so that silence is an answer
audit: setup
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet pip-audit
	$(VENV)-audit/bin/pip-audit --skip-editable --strict --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

# after a new address in pyproject.toml: the badge and the set-up cell of every notebook
badges: setup
	$(BIN)/python tools/badges.py
