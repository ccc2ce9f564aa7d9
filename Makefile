# make demo   set up, export, start a device, validate, report      make test   set up, then the whole test suite
SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= auto
.DEFAULT_GOAL := help
.PHONY: help demo test setup setup-dev lint unit e2e harness vulkan older-cpu lowest newest bench clean

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: setup ## From a fresh clone to a verdict: export, push over adb, run on an arm64 device, judge
	@$(BIN)/python scripts/demo.py

setup: ## The virtual environment and, where allowed, the system packages
	@sh scripts/setup.sh $(VENV) build

setup-dev:
	@sh scripts/setup.sh $(VENV) dev,build,tensorrt

test: setup-dev harness lint ## Everything that CI runs
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

harness: setup-dev
	@$(BIN)/python scripts/build_harnesses.py

lint: setup-dev ## Style, types, import order
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: setup-dev ## The tests that take seconds
	$(BIN)/python -m pytest -n $(JOBS) tests/unit -m 'not network and not device and not slow'

e2e: setup-dev harness ## Tests over real adb against virtual devices
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup tests/e2e

vulkan: setup-dev ## The tests on this machine's GPU, or Mesa's lavapipe; builds the harness for it (minutes)
	$(BIN)/mobilekit harness build --vulkan
	$(BIN)/python -m pytest -n $(JOBS) -m vulkan

older-cpu: setup-dev ## Tests of quantised models on an x86 processor of 2013, which qemu plays (minutes)
	@sh scripts/older_cpu.sh $(BIN) tests/unit/runners/test_ort.py tests/unit/precision/test_quantise.py \
		tests/unit/passes/test_contrib.py tests/unit/targets/ncnn/test_int8.py tests/unit/targets/ncnn/test_quantize.py

lowest: ## The unit tests with the lowest versions that pyproject.toml allows
	@sh scripts/test_versions.sh lowest

newest: ## The unit tests with the newest versions there are
	@sh scripts/test_versions.sh newest

bench: setup-dev ## Side by side with onnxsim + pnnx, and push throughput
	$(BIN)/python benchmarks/export_vs_pnnx.py
	$(BIN)/python benchmarks/latency_vs_pnnx.py
	$(BIN)/python benchmarks/export_scaling.py
	$(BIN)/python benchmarks/push_throughput.py

clean: ## What make built here (caches under the user's cache folder stay)
	rm -rf $(VENV) out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
