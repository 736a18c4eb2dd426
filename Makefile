PYTHON ?= python
SEED ?= 1
PYTEST = $(PYTHON) -m pytest --numprocesses auto --maxprocesses 8

.PHONY: check chance docs format lint slow soak test

check: lint
	$(PYTEST)

lint:
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

format:
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

test:
	$(PYTEST) -m "not slow"

slow:
	$(PYTEST) -m slow

# what passes by chance: hashes, the order of tests, memory that nobody filled, a busy machine
chance:
	$(PYTHON) -m tests.chance

docs:
	$(PYTHON) -m tests.update_docs

# what strangers, full disks, other processes and kills do to the tool: an hour and a half on two idle cores
soak:
	$(PYTHON) -m tests.soak.outputs --seed $(SEED)
	$(PYTHON) -m tests.soak.campaign --seed $(SEED) --commands 1200
	$(PYTHON) -m tests.soak.reading --seed $(SEED) --folders 500
	$(PYTHON) -m tests.soak.faults --seed $(SEED) --faults 90
	$(PYTHON) -m tests.soak.shared_plan --seed $(SEED) --repeats 20
	$(PYTHON) -m tests.soak.kills --seed $(SEED) --kills 200
	$(PYTHON) -m pytest -m slow tests/reports/test_latex.py
	$(PYTHON) -m pytest tests/slurm/test_real_slurm.py tests/slurm/limits.py
