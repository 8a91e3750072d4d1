# Two commands carry a fresh machine to the point: `make demo` and `make test`. Prerequisites: python3 with venv, git,
# and a C++ compiler where torch.compile is wanted.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PY     := $(BIN)/python
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
NB     ?=
SCALE  ?= cpu
export PYTHONUTF8 = 1

.PHONY: help demo test lab docs bench reliability mutation browser store lint clean
.DEFAULT_GOAL := help

help:            ## this list
	@grep -hE '^[a-z]+: .*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(PY):
	@echo "==> virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# One stamp per set of extras: an environment is rebuilt only when the metadata or the lock changed.
$(VENV)/.demo: settings.ini setup.py constraints.txt | $(PY)
	@echo "==> install: library, data, models (constrained by constraints.txt)"
	@$(PIP) install -c constraints.txt -e '.[data,models]' && touch $@

$(VENV)/.lab: $(VENV)/.demo
	@echo "==> install: JupyterLab"
	@$(PIP) install -c constraints.txt -e '.[data,models,lab]' && touch $@

# JupyterLab asks its home for news and new versions unless it is told not to
$(VENV)/etc/jupyter/labconfig/page_config.json: | $(VENV)/.lab
	@$(BIN)/jupyter labextension disable --level=sys_prefix "@jupyterlab/apputils-extension:announcements"

$(VENV)/.dev: settings.ini setup.py constraints.txt | $(PY)
	@echo "==> install: everything the gate needs (constrained by constraints.txt)"
	@$(PIP) install -c constraints.txt -e '.[dev]' && touch $@ $(VENV)/.demo $(VENV)/.lab

demo: $(VENV)/.demo ## fresh machine to the first paper: runs the atoms notebook, report in runs/atoms
	@echo "==> run: representation.atoms at scale $(SCALE), into runs/atoms"
	@$(PY) -m atomsnb run representation.atoms --scale $(SCALE) --out runs/atoms

test: $(VENV)/.dev ## fresh machine to the whole gate; ends with `N passed, N failed`
	@$(PY) tests/gate.py

lab: $(VENV)/.lab $(VENV)/etc/jupyter/labconfig/page_config.json  ## JupyterLab on the first notebook
	@$(BIN)/jupyter lab nbs/representation/atoms.ipynb

docs: $(VENV)/.dev ## the Quarto site in _docs (needs quarto on PATH); any Quarto warning fails
	@$(PY) tests/build_docs.py

bench: $(VENV)/.dev ## speed measurements, written to benchmarks/results
	@for f in benchmarks/*.py; do echo "==> $$f"; $(PY) $$f || exit 1; done

reliability: $(VENV)/.dev ## the long reliability suites, written to benchmarks/results/reliability
	@$(PY) tests/reliability/run_all.py

mutation: $(VENV)/.dev ## faults planted in every landed paper's formulas; which the checks find, in benchmarks/results/reliability/R11.json
	@$(PY) tests/mutation.py

browser:         ## Chromium (Debian) and axe-core (npm) for the tests of pages in a browser, which are skipped without them
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium; }
	@mkdir -p build/browser && cd build/browser && npm install --silent --no-audit --no-fund axe-core

store: $(VENV)/.dev ## re-execute notebooks, store their outputs and cpu ledgers: make store NB="nbs/core/ledger.ipynb …"
	@$(BIN)/nbdev_export
	@$(PY) -m atomsnb store $(if $(NB),$(NB),--all)

lint: $(VENV)/.dev ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/mypy

clean:           ## what can be rebuilt; runs/ and results stay
	@rm -rf $(VENV) _docs _proc .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
