VENV ?= .venv
PY = $(VENV)/bin/python
export PYTHONUNBUFFERED = 1

.PHONY: help setup demo test test-all lint

help:
	@echo 'make setup     virtual environment in $(VENV) (5 to 15 minutes the first time)'
	@echo 'make demo      train a teacher, a student and the distilled student on drawn data'
	@echo 'make test      the tests'
	@echo 'make test-all  the tests, the slow ones too'
	@echo 'make lint      ruff and mypy'

setup:
	@bash tools/setup_env.sh $(VENV)

demo: setup
	$(PY) tools/demo.py

test: setup
	$(PY) -m pytest -q -m 'not slow'

test-all: setup
	$(PY) -m pytest -q

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
