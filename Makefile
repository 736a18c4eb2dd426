PYTHON ?= python
PYTEST = $(PYTHON) -m pytest --numprocesses auto --maxprocesses 8

.PHONY: check docs format test

check:
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTEST)

format:
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

test:
	$(PYTEST) -m "not slow"

docs:
	$(PYTHON) -m tests.update_docs
