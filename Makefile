VENV ?= .venv
PY = $(VENV)/bin/python
export PYTHONUNBUFFERED = 1
WORKERS ?= 2
PARALLEL = -n $(WORKERS) --dist worksteal

.PHONY: help setup demo test test-all test-slurm torture lint docs
SEED ?= 0
MINUTES ?= 10

help:
	@echo 'make setup     virtual environment in $(VENV) (5 to 15 minutes the first time)'
	@echo 'make demo      train a student alone and distilled on drawn data, about 5 minutes'
	@echo 'make test      the tests (WORKERS=2 processes of one thread each)'
	@echo 'make test-all  the tests, the slow ones too'
	@echo 'make test-slurm  training under Slurm: a cluster of this machine, as root'
	@echo 'make torture   random kills, damaged and hostile files, wrong options (SEED=0 MINUTES=10)'
	@echo 'make lint      ruff and mypy'
	@echo 'make docs      the documentation as a site in work_dirs/site; a link that leads nowhere is an error'

setup:
	@bash tools/setup_env.sh $(VENV)

demo: setup
	$(PY) tools/demo.py

test: setup
	OMP_NUM_THREADS=1 $(PY) -m pytest -q $(PARALLEL) -m 'not slow and not slurm'

test-all: setup
	$(PY) -m pytest -q -m 'not slurm'

test-slurm: setup
	$(PY) -m pytest -q -m slurm tests/training/test_slurm.py

torture: setup
	$(PY) tests/torture.py --seed $(SEED) --minutes $(MINUTES)

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: setup
	$(VENV)/bin/mkdocs build --strict --quiet
