# Each target works alone and in any order on a machine with Python >= 3.11, make and a package index.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
OUT ?= out/demo
SMEAR ?=
SIZE ?= small
DATA ?= ../shared/data
# cells of pages: cache (changed pages only), force (all), off
EXECUTE ?= cache
PARALLEL := -n 2 --dist loadgroup
QUICK := -m "not slow and not ray and not browser"
# where the values that tests assert come out of convolutions
NUMERICS := tests/networks tests/patching tests/profile tests/study
LOWEST := tests/ground/test_specs.py tests/ground/test_shifts.py tests/cli tests/profile tests/patching

.PHONY: install demo test test-all test-numerics test-lowest lint types map bench lock pictures
.PHONY: findings docs dist smoke

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=.venv $(BIN)/uv pip sync --quiet requirements.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --editable .
	touch $@

demo: $(STAMP)
	$(BIN)/skipshift demo $(OUT) --size $(SIZE) $(if $(SMEAR),--smear $(SMEAR))

# the README's picture of the network, from the demo; that of a page, from the docs' example
pictures: demo
	cp $(OUT)/diagnosis/u.png docs/pictures/u.png
	$(BIN)/python docs/inputs.py
	cd docs/_inputs && ../../$(BIN)/skipshift diagnose net scanner-a/images scanner-b/images ../../out/page --preprocess unit --remedies brightness,gamma,image-moments,adabn --places input,encoder.conv1
	$(BIN)/python -m tools.page_picture out/page/report.html

test: $(STAMP)
	$(BIN)/pytest $(PARALLEL) $(QUICK)

test-all: $(STAMP)
	$(BIN)/pytest $(PARALLEL)

# oneDNN as on older processors: without AVX-512, and so without bf16
test-numerics: $(STAMP)
	ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/pytest $(PARALLEL) $(QUICK) $(NUMERICS)

# the lowest versions that pyproject.toml names, some minutes; -W: their own warnings are no errors
test-lowest: $(STAMP)
	$(BIN)/uv venv --quiet --clear --python 3.11 out/lowest
	VIRTUAL_ENV=out/lowest $(BIN)/uv pip install --quiet --resolution lowest-direct --requirements pyproject.toml --all-extras
	VIRTUAL_ENV=out/lowest $(BIN)/uv pip install --quiet pytest pytest-xdist hypothesis
	VIRTUAL_ENV=out/lowest $(BIN)/uv pip install --quiet --no-deps --editable .
	out/lowest/bin/pytest $(PARALLEL) $(QUICK) -W default $(LOWEST)

# wheel and sdist, as they are published
dist: $(STAMP)
	rm -rf dist
	VIRTUAL_ENV=.venv $(BIN)/uv build --quiet --out-dir dist
	$(BIN)/twine check --strict dist/*
	$(BIN)/python -m tools.dist dist

# the wheel as a stranger has it: in an environment and a folder of its own
smoke: dist
	rm -rf out/smoke
	$(BIN)/uv venv --quiet --python $(BIN)/python out/smoke/.venv
	VIRTUAL_ENV=out/smoke/.venv $(BIN)/uv pip install --quiet --constraint requirements.lock dist/*.whl
	cd out/smoke && .venv/bin/skipshift --help >help.txt && .venv/bin/skipshift doctor
	cd out/smoke && .venv/bin/python -c "import skipshift" && .venv/bin/skipshift demo demo --size smallest
	test -s out/smoke/demo/report.html
	test -s out/smoke/demo/diagnosis/report.html

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(STAMP)
	$(BIN)/mypy

# studies, tables, figures and pages of docs/findings; what is there is not made again
findings: $(STAMP)
	$(BIN)/python -m benchmarks.findings studies out $(DATA)
	$(BIN)/python -m benchmarks.findings measure out
	$(BIN)/python -m benchmarks.findings tell out

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
