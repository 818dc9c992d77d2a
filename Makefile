# Every target sets up what it needs: a virtual environment in .venv, nothing outside it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
MUTANT := $(VENV)/.mutation
TYPING := $(VENV)/typing/spfreplay_reference
DEMO   ?= traces/recorded/cstress.bin
ORACLE ?= 60
STEPS  ?= 60000000
# of the mutants: every SHARE-th that is not listed as a survivor; 1: all of them
SHARE  ?= 1
CANNOT := { [ $$? = 5 ] && echo 'SKIPPED: oracle: no operation was compared'; }

.PHONY: help demo test check slow live traces oracle mutation bench clean mutilations

help:  ## this list
	@sed -n 's/^\([a-z]*\): .*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "spfreplay needs Python 3.11 or newer (make PYTHON=...)")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(MUTANT): $(STAMP)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,mutation]'
	@touch $@

# mypy follows no editable-install hooks: show it the import name of reference/.
$(TYPING):
	@mkdir -p $(@D) && ln -sfn ../../reference $@

demo: $(STAMP)  ## install, then diff a shipped recording of a real threaded program
	@$(BIN)/spfreplay diff --quiet --budget 3000 $(DEMO) || test $$? -eq 1

test: $(STAMP)  ## install, then run the tests (under three minutes)
	@$(BIN)/pytest -n auto --dist worksteal

check: $(STAMP) $(TYPING)  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

slow: $(STAMP) $(MUTANT)  ## the tests that take minutes, and those against the running kernel
	@$(BIN)/pytest -n auto --dist worksteal -m 'slow and not live'
	@$(BIN)/pytest -m live

live: $(STAMP)  ## only what the running kernel judges: its tests, then random programs
	@$(BIN)/pytest -m live
	@$(MAKE) --no-print-directory oracle

traces: $(STAMP)  ## every shipped trace against what it states
	@$(BIN)/spfreplay diff --ci --quiet --budget $(STEPS) traces
	@$(BIN)/spfreplay diff --ci --quiet --budget $(STEPS) --protocol spf-fixed traces/corpus

# As root the same number of programs runs as nobody, too.  Says so where it cannot judge.
oracle: $(STAMP)  ## random programs on this kernel, how many operations were compared
	@$(BIN)/spfreplay oracle --quiet --programs $(ORACLE) || $(CANNOT)
	@if [ $$(id -u) = 0 ]; then \
	    $(BIN)/spfreplay oracle --quiet --programs $(ORACLE) --unprivileged || $(CANNOT); fi

mutation: $(MUTANT)  ## change the protocol line by line: does a test notice? (hours)
	@nice -n 10 $(BIN)/python tests/mutation/mutation_run.py --share $(SHARE) $(if $(LIMIT),--seconds $(LIMIT))

mutilations: $(STAMP)  ## a million damaged files of every format: read or refused (an hour)
	@nice -n 10 $(BIN)/python tests/property/mutilations.py --count $(or $(COUNT),1000000)

bench: $(STAMP)  ## print what things cost, as ratios of one run
	@$(BIN)/pytest -m bench -s

clean:  ## remove what these targets made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
