# make test | make demo: everything they need is set up on the way, and set up once.
# Also: build bench conformance asan tsan lint format wheel clean
PYTHON ?= python3
BUILD ?= build
JOBS ?= $(shell nproc)
export BUILD

VENV := .venv
PY := $(VENV)/bin/python
RUN := PYTHONPATH=$(BUILD)/python $(PY)
CXX_FILES = $(shell git ls-files --cached --others --exclude-standard '*.h' '*.cpp')
export NINJA_STATUS := [%f/%t %es] 

.PHONY: help setup build test demo bench conformance asan tsan lint format wheel clean
help:
	@sed -n 's/^# //p' Makefile | head -2

setup: $(VENV)/.stamp
$(VENV)/.stamp: .ci/requirements.txt .ci/packages.txt
	@.ci/apt
	@echo "==> Python packages into $(VENV) (torch is large: minutes the first time)"
	@test -x $(PY) || .ci/quiet venv $(PYTHON) -m venv $(VENV)
	@.ci/quiet pip $(PY) -m pip install --disable-pip-version-check -r .ci/requirements.txt
	@touch $@

$(BUILD)/build.ninja: $(VENV)/.stamp
	@.ci/apt
	@echo "==> Configuring $(BUILD)"
	@.ci/quiet configure cmake --preset release -B $(BUILD) -DPython_EXECUTABLE=$(CURDIR)/$(PY)
	@touch $@

build: $(BUILD)/build.ninja
	@echo "==> Building $(BUILD)"
	@ninja -C $(BUILD) -j $(JOBS)

# The core without PyTorch and LLVM, under a sanitizer.
build-asan build-tsan: build-%: $(VENV)/.stamp
	@echo "==> Building build-$*"
	@test -f build-$*/build.ninja || .ci/quiet configure-$* cmake --preset $*
	@ninja -C build-$* -j $(JOBS)
.PHONY: build-asan build-tsan

test: build build-asan build-tsan
	@$(PY) .ci/test.py

asan tsan: %: build-%
	@$(PY) .ci/test.py $@

demo: build
	@echo "==> Demo"
	@$(RUN) python/examples/demo.py

bench: build
	@set -e; for name in mlp_step groups demo_models tiny_models; do echo "==> $$name"; $(RUN) tests/benchmarks/$$name.py; done

conformance: build
	@$(RUN) .ci/conformance.py

lint: setup
	$(VENV)/bin/ruff check python tests .ci
	$(VENV)/bin/clang-format --dry-run -Werror $(CXX_FILES)
	$(PY) -m pytest -q tests/python/test_layering.py --noconftest

format: setup
	$(VENV)/bin/ruff check --fix python tests .ci
	$(VENV)/bin/clang-format -i $(CXX_FILES)

wheel: setup
	$(PY) -m pip wheel --no-build-isolation --no-deps -w dist .

clean:
	rm -rf $(BUILD) build-asan build-tsan build-debug build-wheel dist
