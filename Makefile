# The whole study from a fresh clone, or an unpacked archive. Needs Python 3.11 and make.
# Everything happens in this folder: .venv (packages), .prefect and .mlflow (services), .smoke (the small study).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
INSTALLED := $(VENV)/.installed
BIN := $(VENV)/bin
HERE := $(CURDIR)/$(BIN)

# dvc.yaml says `python`: that has to be the environment's.
export PATH := $(HERE):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help install setup study trained smoke soak test ui down clean

help:
	@echo "make study   the whole study with real Python code, hours on two cores; the report: results/index.html"
	@echo "make trained  takes over the sparse models as the committed study trained them, which spares make study two hours"
	@echo "make smoke   the same pipeline on a tiny profile, in .smoke/, in under ten minutes"
	@echo "make soak    the small study 20 times, killed at three random moments in each: all have to end the same; hours"
	@echo "make test    lint, types and every test that this machine can run, the small study among them"
	@echo "make ui      the UIs of Prefect and MLflow on localhost, with their addresses"
	@echo "make down    stop the servers that make started"
	@echo "make clean   delete .smoke, .scratch and caches of tools; keeps data, models, circuits, results, .venv"

# The environment is made again where the lock or the project's metadata changed since, and where this folder was moved or
# copied: its programs name the place where they were made, and would run that one's code.
MADE_HERE := $(shell grep -qsF -e "$(HERE)/python" -e "$(realpath $(BIN))/python" "$(BIN)/dvc" && echo yes)
ifneq ($(MADE_HERE),yes)
.PHONY: $(INSTALLED)
endif

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("needs Python 3.11, not " + sys.version.split()[0] \
		+ "; say which: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python && test "$(MADE_HERE)" = yes || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing the pinned packages into $(VENV) (minutes, the first time)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

install: $(INSTALLED)

# Outside a git checkout, or inside another one that ignores these files, DVC has to be told (in .dvc/config.local) that
# there is none. Its plots get a page that needs no network.
setup: $(INSTALLED)
	@if ! git rev-parse --is-inside-work-tree >/dev/null 2>&1 || git check-ignore dvc.yaml .dvc/config >/dev/null; then \
		$(BIN)/dvc config --local core.no_scm true; fi
	@$(BIN)/python -m flows.plots

# The report says how long the whole took, from here on, where all of it was made in this one run.
study: export SPARSE_CIRCUITS_STUDY_BEGAN := $(shell date +%s)
study: setup
	@$(BIN)/python -m flows.services up
	$(BIN)/dvc repro
	@echo
	@echo "The report: $(CURDIR)/results/index.html"
	@echo "make ui opens the UIs of Prefect (every stage) and MLflow (every model and circuit); make down stops them."

# dvc.lock says what they are made of: where code, settings or tokens differ from that, DVC refuses them here, and make
# study trains them.
trained: setup
	$(BIN)/dvc repro tokenise
	tar -xJf results/trained.tar.xz
	$(BIN)/dvc commit $$(tar -tJf results/trained.tar.xz | sed -n 's|^models/\([^/]*\)/$$|pretrain@\1|p')

smoke: setup
	$(BIN)/python -m flows.smoke

soak: setup
	$(BIN)/python -m benchmarks.soak

# On two cores: about as long as all others together, the small study among them
BESIDE := tests/test_recipes.py tests/data tests/planted tests/prune tests/validate tests/formats tests/pretrain tests/fuzz tests/explain tests/kernels

test: export OMP_NUM_THREADS := 1
test: setup
	$(BIN)/ruff check flows pipeline tests benchmarks
	$(BIN)/ruff format --check flows pipeline tests benchmarks
	$(BIN)/mypy
	@mkdir -p .scratch
	@$(BIN)/pytest -q $(BESIDE) > .scratch/beside.log 2>&1 & beside=$$!; \
	$(BIN)/pytest -q $(addprefix --ignore=,$(BESIDE)); status=$$?; \
	wait $$beside || status=1; \
	echo "$(BESIDE), which ran beside:"; cat .scratch/beside.log; \
	exit $$status

ui: $(INSTALLED)
	@$(BIN)/python -m flows.services ui

down:
	@if test -x $(VENV)/bin/python; then $(BIN)/python -m flows.services down; else echo "nothing runs: no $(VENV)"; fi

clean: down
	rm -rf .smoke .soak .scratch .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
	find flows pipeline tests -name __pycache__ -type d -prune -exec rm -rf {} +
