# Every target sets up .venv first; Python >= 3.11, git and make are enough. PIP_ARGS is passed to pip: if the pinned torch
# would bring unwanted CUDA packages, give PyTorch's own CPU wheel index: PIP_ARGS="--extra-index-url <address>".

PYTHON ?= python3
PIP_ARGS ?=
BUDGET ?= 6m
RUN_DIR ?= runs/demo

.PHONY: install search test fast-tests lint types docs clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python: too old; expected 3.11 or newer, got " + sys.version)'
	@echo "Installing into .venv the versions pinned in constraints.txt; PyTorch is the largest. This takes minutes."
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) --constraint constraints.txt \
		--editable '.[demo,dev,docs]'
	touch $@
	@echo "Installed. Next: make search (a search of the demo), or source .venv/bin/activate for the commands by hand"

# The first call starts a search, later calls resume it.
search: install
	if test -f $(RUN_DIR)/config.yaml; \
	then .venv/bin/python run_search.py resume $(RUN_DIR) --budget $(BUDGET); \
	else .venv/bin/python run_search.py search search_spaces/demo.yaml --budget $(BUDGET) --run-dir $(RUN_DIR); fi

lint: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy --strict nas

# The types of everything; longer than those of the package alone.
types: install
	.venv/bin/mypy --strict nas benchmarks demo tests

test: lint fast-tests

# Reads the sources and nothing from the network; the variable silences an advertisement.
docs: install
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet

# Three processes keep two cores busy: some tests wait for processes that they start.
fast-tests: install
	.venv/bin/pytest --numprocesses 3 --dist worksteal --durations 20

clean:
	rm -rf .venv site
