# `make search` and `make test` are all that is needed; both set up .venv first. Python >= 3.11, git and make are enough.
# PIP_ARGS is passed to pip: where the pinned torch would bring CUDA packages that are not wanted, give PyTorch's own CPU
# wheel index, for instance PIP_ARGS="--extra-index-url <index>".

PYTHON ?= python3
PIP_ARGS ?=
BUDGET ?= 4m
RUN_DIR ?= runs/demo

.PHONY: install search test fast-tests lint clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed, this is " + sys.version)'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --constraint constraints.txt \
		--editable '.[demo,dev]'
	touch $@

# The first time a search is started, later it is gone on with.
search: install
	if test -f $(RUN_DIR)/config.yaml; \
	then .venv/bin/python run_search.py resume $(RUN_DIR) --budget $(BUDGET); \
	else .venv/bin/python run_search.py search search_spaces/demo.yaml --budget $(BUDGET) --run-dir $(RUN_DIR); fi

lint: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy --strict nas

test: lint fast-tests

fast-tests: install
	.venv/bin/pytest --numprocesses 2 --dist worksteal --durations 20

clean:
	rm -rf .venv
