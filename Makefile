# make quick   set up .venv and run a small version of the final experiment on generated images
# make test    set up .venv with the test tools, then lint, check types and run the tests
# make slow    run the tests that take minutes
# make clean   remove .venv and the tools' caches; keep runs/
#
# PYTHON=python3.12 selects the interpreter for .venv, 3.11 or newer.
# EXTRAS=test leaves PyTorch and ONNX out and skips the tests that need them.

PYTHON ?= python3
EXTRAS ?= test,torch,onnx

BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
comma := ,
BASE_STAMP := .venv/.installed
TEST_STAMP := .venv/.installed-$(subst $(comma),-,$(EXTRAS))
CHECK_PYTHON := import sys; v = "%d.%d" % sys.version_info[:2]; \
  sys.exit(None if sys.version_info >= (3, 11) else "jresnet needs Python 3.11 or newer, $(PYTHON) is " + v + \
  ": try make PYTHON=python3.11")

.PHONY: quick test slow clean

quick: $(BASE_STAMP)
	$(BIN)/python -m experiments.final --quick

# One process per file, because tests of a file share trained networks. Files keep their order: sorted by number of
# tests, as by default, the slowest would run last and alone.
test: $(TEST_STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

slow: $(TEST_STAMP)
	$(BIN)/python -m pytest -m slow -n 2

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An incomplete venv would be taken for a finished one next time, so it is removed.
$(BIN)/python:
	@$(PYTHON) -c '$(CHECK_PYTHON)'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

$(BASE_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e .
	touch $@

# The extras include what `quick` needs, so this makes both stamps.
$(TEST_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e ".[$(EXTRAS)]"
	touch $(BASE_STAMP) $@
