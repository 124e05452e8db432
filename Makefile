# Every target makes or updates .venv first; that takes about a second when there is nothing to do.
PYTHON ?= python3
ARGS ?=
# Files of tests that run at a time. Each worker takes one core and up to 2 GB.
WORKERS ?= 2

# One thread for torch, as in the notebooks: see tools/installing.py. The benchmarks choose for themselves.
lab app federation node test notebooks: export OMP_NUM_THREADS ?= 1

# With these, packages from elsewhere would come before those of .venv.
ifdef PYTHONPATH
$(warning PYTHONPATH is set ($(PYTHONPATH)); it is left out here: its packages would come before those of .venv)
endif
unexport PYTHONPATH PYTHONHOME

ifeq ($(OS),Windows_NT)
RUN = .venv/Scripts/python
else
RUN = .venv/bin/python
endif

.DEFAULT_GOAL := help
.PHONY: help lab app federation node test check bench papers notebooks course repair lock

help:
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1 \2/p' Makefile

lab: ##        open the lab in JupyterLab (options for it: ARGS="--port=9000 --no-browser")
	@$(PYTHON) tools/install.py
	@$(RUN) tools/start.py lab $(ARGS)

app: ##        open the first notebook as a page without code, with Voila (another: ARGS=playground)
	@$(PYTHON) tools/install.py
	@$(RUN) tools/start.py app $(ARGS)

# With LINK the link of a room, see the README; without, all on this machine.
federation: ## train on real nodes of this machine, beside the simulation (ARGS="--nodes 4 --rounds 3 --algorithm FedMAML")
	@$(PYTHON) tools/install.py nodes
	@$(RUN) -m fmlab.nodes $(if $(LINK),link --host $(LINK) --names $(NAMES) --target $(TARGET) --features $(FEATURES),local) $(ARGS)

node: ##       join a room with a file of one's own (AT=192.168.1.10:8000 NAME=alice DATA=my.csv)
	@$(PYTHON) tools/install.py nodes
	@$(RUN) -m fmlab.nodes node --at $(AT) --name $(NAME) $(if $(DATA),--data $(DATA)) $(ARGS)

test: ##       run all tests: units, notebooks, and a browser where Chromium is found
	@$(PYTHON) tools/install.py test nodes privacy
	$(RUN) -m pytest --nbval -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests notebooks $(ARGS)

check: ##      check format, lint (notebooks too) and the types of fmlab
	@$(PYTHON) tools/install.py dev
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

bench: ##      measure fmlab beside its peers on this machine
	@$(PYTHON) tools/install.py bench
	$(RUN) -m benchmarks $(ARGS)

papers: ##     measure the papers' tables beside ours (some: ARGS="collins cheng"; their own budgets, hours: ARGS=--full)
	@$(PYTHON) tools/install.py bench
	$(RUN) -m benchmarks.papers $(ARGS)

notebooks: ##  run every notebook in a fresh kernel and store its outputs
	@$(PYTHON) tools/install.py test nodes privacy
	$(RUN) tools/notebooks.py $(ARGS)

course: ##     write the course to hand out into dist/: students', instructor's, and a handout for paper
	@$(PYTHON) tools/install.py
	$(RUN) tools/course.py $(ARGS)

repair: ##     compare every installed file with its checksum, and install again what is damaged
	@$(PYTHON) tools/install.py --repair

lock: ##       move the locked versions to the newest within the bounds (ARGS=--keep: only as far as the bounds ask)
	@$(PYTHON) tools/install.py lock
	$(RUN) tools/lock.py $(ARGS)
