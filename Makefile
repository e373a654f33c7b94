# make export   installs into .venv, exports the bundled example and asks the exported graph a question
# make test     installs into .venv-test, then make lint (style and types) and make unit (tests) at the same time
# make test-tensorrt  installs TensorRT-RTX into .venv-tensorrt, which needs no GPU, and builds engines of exported graphs
# make test-peft5  installs transformers 5 and PEFT, without the adapters library, into .venv-peft5, and tests the exports of PEFT there
# make support  exports every combination of the support table and writes docs/support.md
# PYTHON=python3.12 make …   chooses the interpreter (3.11 or newer)

PYTHON ?= python3
TORCH ?= torch==2.13.0# pinned: a newer release may need another exporter; on a CPU machine install a CPU build

.PHONY: export test lint unit test-tensorrt test-peft5 support benchmark clean

export: .venv/installed
	.venv/bin/python -m exporter --drop 5 --output onnx --overwrite
	.venv/bin/python -m runtime onnx --text "The new phone is fast, and the screen is gorgeous."

test: .venv-test/installed
	@$(MAKE) --no-print-directory --jobs 2 lint unit

# mypy needs one core for most of a minute: it runs while the tests do.
lint: .venv-test/installed
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .
	.venv-test/bin/mypy

unit: .venv-test/installed
	.venv-test/bin/python -m pytest -n 2 --dist loadgroup

test-tensorrt: .venv-tensorrt/installed
	.venv-tensorrt/bin/python -m pytest tests/exporter/test_tensorrt.py

# Tests that neither import the adapters library nor are marked as needing it.
PEFT5_TESTS = tests/exporter/models/test_peft_models.py tests/exporter/checkpoints/test_peft_load.py tests/exporter/test_families.py \
  tests/exporter/test_support_peft.py tests/exporter/test_peft_example.py tests/exporter/cli/test_peft_command_line.py

test-peft5: .venv-peft5/installed
	.venv-peft5/bin/python -m pytest -m "not adapters" $(PEFT5_TESTS)

support: .venv-test/installed
	.venv-test/bin/python -m tests.helpers.support_table

benchmark: .venv-test/installed
	.venv-test/bin/python -m benchmarks --quick

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet $(TORCH) -e '.[export,adapters,cpu]'
	touch $@

.venv-test/installed: pyproject.toml
	$(PYTHON) -m venv .venv-test
	# Python compiles what is imported, which is a part of the 14,000 files.
	.venv-test/bin/python -m pip install --quiet --no-compile $(TORCH) -e '.[export,adapters,cpu,benchmark,training,test]'
	touch $@

.venv-tensorrt/installed: pyproject.toml
	$(PYTHON) -m venv .venv-tensorrt
	.venv-tensorrt/bin/python -m pip install --quiet $(TORCH) -e '.[export,adapters,cpu,tensorrt,test]'
	touch $@

.venv-peft5/installed: pyproject.toml
	$(PYTHON) -m venv .venv-peft5
	.venv-peft5/bin/python -m pip install --quiet --no-compile $(TORCH) 'transformers>=5' -e '.[export,peft,cpu,tokenizers,test-peft]'
	touch $@

clean:
	rm -rf .venv .venv-test .venv-tensorrt .venv-peft5
