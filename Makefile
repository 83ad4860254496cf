# Each target works alone and in any order on a machine with Python >= 3.11, make and a package index.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
OUT ?= out/demo
SMEAR ?=
SIZE ?= small
# cells of pages: cache (changed pages only), force (all), off
EXECUTE ?= cache
PARALLEL := -n 2 --dist loadgroup
QUICK := -m "not slow and not ray and not browser"
# where the values that tests assert come out of convolutions
NUMERICS := tests/networks tests/patching tests/profile tests/study

.PHONY: install demo test test-all test-numerics lint types map bench lock pictures docs

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=.venv $(BIN)/uv pip sync --quiet requirements.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --editable .
	touch $@

demo: $(STAMP)
	$(BIN)/skipshift demo $(OUT) --size $(SIZE) $(if $(SMEAR),--smear $(SMEAR))

# the README's picture of the network, from the demo
pictures: demo
	cp $(OUT)/diagnosis/u.png docs/pictures/u.png

test: $(STAMP)
	$(BIN)/pytest $(PARALLEL) $(QUICK)

test-all: $(STAMP)
	$(BIN)/pytest $(PARALLEL)

# oneDNN as on older processors: without AVX-512, and so without bf16
test-numerics: $(STAMP)
	ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/pytest $(PARALLEL) $(QUICK) $(NUMERICS)

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(STAMP)
	$(BIN)/mypy

map: $(STAMP)
	$(BIN)/python -m tools.house

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# the site, out/docs/index.html; a warning is an error
docs: $(STAMP)
	$(BIN)/python docs/inputs.py
	PATH="$(CURDIR)/$(BIN):$$PATH" EXECUTE=$(EXECUTE) $(BIN)/sphinx-build -W --keep-going -q -d out/docs-state docs out/docs

lock: $(STAMP)
	VIRTUAL_ENV=.venv $(BIN)/uv pip compile --quiet --all-extras --group dev --no-header --no-emit-index-url --no-emit-find-links pyproject.toml -o requirements.lock
