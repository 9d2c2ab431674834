# One environment, three verbs. The stamp makes every target work again without a network once it is installed.
PYTHON ?= python3.11
VENV := .venv
# What is installed beside the package; continuous integration adds the peers that formulas are compared with.
EXTRAS ?= dev
COMMA := ,
STAMP := $(VENV)/.installed-$(subst $(COMMA),-,$(EXTRAS))
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test lint format docs clean

demo: $(STAMP)
	$(VENV)/bin/exptilt demo

test: $(STAMP)
	$(VENV)/bin/python -m pytest -q -n 2 --dist loadfile

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(STAMP)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

docs: $(STAMP)
	$(VENV)/bin/python -m exptilt.losses.catalogue
	$(VENV)/bin/python -m exptilt.settings.other_tools
	$(VENV)/bin/python -m exptilt.converters.trl_page

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(STAMP): pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
	touch $(STAMP)
