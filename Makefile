# One command trains and builds, one command tests. Needs Python 3.11 and git; everything else is installed into .venv.
PYTHON ?= python3.11
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1# the networks here are small: threads would wait for each other longer than they compute
export PYTHONUNBUFFERED := 1

NOTEBOOKS := $(wildcard book/*.ipynb book/training/*.ipynb)
PACKAGE := $(shell find asintrovae -name '*.py' -o -name '*.js')
RUNS := book/runs/toy.ipynb book/runs/images.ipynb
PIP := $(BIN)/python -m pip install --progress-bar on --no-compile -c constraints.txt# Python compiles what it imports; all would take 40 s
TIMED := $(BIN)/python book/tools/timed.py# seconds of every stage, for the benchmarks

.PHONY: help setup runs gpu-day chapters tables book serve pdf test test-all chaos soak bench bench-clone check new-chapter hooks browser format sync constraints audit install-check repository version clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/installed ## install the pinned packages and this one into .venv

.venv/installed: constraints.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; install Python 3.11 or name one: make PYTHON=python3" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) -e ".[book,test]"
	touch $@

runs: .venv/installed ## train both demonstration runs through papermill, where they are not up to date
	@$(TIMED) runs $(MAKE) --no-print-directory -j2 $(RUNS)

# A finished run that is out of date starts anew, an interrupted one goes on. The page is written last.
book/runs/%.ipynb: book/training/%.ipynb $(PACKAGE)
	@mkdir -p book/runs/$*
	@! [ -f book/runs/$*/record.json ] || rm -rf book/runs/$*/*
	$(BIN)/papermill $< book/runs/$*/notebook.ipynb -p run_dir book/runs/$*
	@cp book/runs/$*/notebook.ipynb $@

# In order of worth, WORKERS at a time on one card. OPTIONS are those of asintrovae-sweep, as -p data_dir FOLDER.
SETS ?= mnist cifar10 flowers128
WORKERS ?= 4
BUDGET ?= 86400
gpu-day: .venv/installed ## train the published sizes of the images on a GPU for BUDGET seconds; the same command goes on
	$(BIN)/asintrovae-sweep $(SETS:%=book/training/sweeps/gpu_day_%.yaml) --workers $(WORKERS) --budget $(BUDGET) $(OPTIONS)

chapters: .venv/installed ## execute the chapters whose code, package or pins have changed
	$(TIMED) chapters $(BIN)/python book/tools/execute.py $(NOTEBOOKS)

tables: .venv/installed ## rebuild tables and figures of recorded runs from data/runs alone, in seconds
	$(BIN)/asintrovae-sweep book/training/sweeps/*.yaml --table
	$(BIN)/python book/tools/execute.py --force book/11_toy_results.ipynb book/13_image_results.ipynb book/found.ipynb book/index.ipynb

book: setup runs chapters ## train, execute what is stale, build the book
	$(TIMED) pages $(BIN)/jupyter-book build . -W -n --keep-going -q
	@echo "The book: $(CURDIR)/_build/html/book/index.html  (open it, or: make serve)"

serve: ## show the built book on http://localhost:8000
	@test -d _build/html || { echo "make serve: nothing built yet; run make book first" >&2; exit 1; }
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html 8000

pdf: .venv/installed ## print the built book into _build/book.pdf
	$(BIN)/python book/tools/pdf.py

browser: ## install Debian's Chromium for the browser tests, where it is missing and this user may
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } \
	  || echo "make browser: no chromium; install it (Debian: apt-get install chromium), or its tests are skipped" >&2

test: setup browser check ## style, types, package, equations, notebooks, book
	$(TIMED) tests $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not weekly"

test-all: setup browser check ## the same, and what takes too long for every change
	$(BIN)/python -m pytest -n 2 --dist loadgroup

bench: .venv/installed ## benchmarks as ratios of one run, on every core; fails where a target is missed
	env -u OMP_NUM_THREADS $(BIN)/python -m benchmarks

bench-clone: .venv/installed ## seconds of make test and make book from fresh clones; REVISIONS="OLD NEW" compares commits
	env -u OMP_NUM_THREADS $(BIN)/python -m benchmarks.clone $(REVISIONS)

chaos: .venv/installed ## kill runs, try every fault and bad input, and record that none was lost; minutes
	$(BIN)/python tests/reliability/chaos.py

soak: .venv/installed ## two long runs, on points and on images: memory and open files must not grow; minutes
	$(BIN)/python tests/reliability/soak.py

check: .venv/installed ## style and types; make check CHAPTER=05_as_distance: that chapter, its tests and its page
ifdef CHAPTER
	$(BIN)/python book/tools/check_chapter.py "$(CHAPTER)"
else
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(TIMED) types $(BIN)/mypy --strict
endif

new-chapter: .venv/installed ## begin a chapter: make new-chapter NAME=13_title
	$(BIN)/python book/tools/new_chapter.py "$(NAME)"

hooks: .venv/installed ## look at style, types and pairs of notebooks before each commit, from .venv alone
	$(BIN)/pre-commit install

format: .venv/installed ## format code and chapters; after this `make chapters` stores the text in the notebooks
	$(BIN)/ruff format .
	cd book/src && PATH="$(CURDIR)/$(BIN):$$PATH" jupytext --pipe "ruff format --stdin-filename ../x.py -" $$(find . -name "*.md")

sync: .venv/installed ## after editing a notebook instead of its MyST pair in book/src: bring the pair in step
	$(BIN)/jupytext --sync $$(find book/src -name '*.md')

# Without the network this stops at its first line, and everything is as it was.
constraints: .venv/installed ## refresh constraints.txt and environment.yml to the newest versions pyproject.toml allows
	$(BIN)/python book/tools/pins.py
	rm -rf .venv && $(MAKE) --no-print-directory setup
	$(BIN)/python book/tools/pins.py --browser

audit: .venv/installed ## ask PyPI for known vulnerabilities of the pinned packages; needs the network
	$(BIN)/python -m venv _build/audit && _build/audit/bin/pip install -q pip-audit
	_build/audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

install-check: .venv/installed ## try the wheel with each extra in an empty environment; needs the network
	env -u OMP_NUM_THREADS $(BIN)/python book/tools/install.py

repository: .venv/installed ## move to another repository: make repository URL=https://github.com/OWNER/NAME
	$(BIN)/python book/tools/repository.py "$(URL)"

version: .venv/installed ## after a new version in pyproject.toml: set-up cells install its tag, CITATION.cff names it
	$(BIN)/python book/tools/repository.py --version

clean: ## remove what make made, .venv included
	rm -rf .venv _build book/runs
