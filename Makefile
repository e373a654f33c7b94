# make export   installs into .venv, exports the bundled example and runs the graph on one text
# make test     installs into .venv-test, then make lint (style and types) and make unit (tests) at the same time
# make test-all  all tests, also those marked sweep: every row of the support table, and a longer fuzz; every week in CI
# make test-tensorrt  installs TensorRT-RTX into .venv-tensorrt, which needs no GPU, and builds engines of exported graphs
# make test-webgpu  installs the plug-in for WebGPU into .venv-webgpu, and tests it on Mesa's software Vulkan, without a GPU
# make test-peft5  installs transformers 5 and PEFT, without the adapters library, into .venv-peft5, and tests the exports of PEFT there
# make gpu      tests on the GPU of this machine, then the benchmark, with the python3 and the packages that are there; DEVICE=cpu rehearses
# make test-torch TORCH=torch==2.15.0  installs that PyTorch into .venv-torch and runs the tests of exports there
# make test-javascript  installs the packages of examples/javascript with npm, and tests the examples; needs node and Chromium
# make test-cpp  gets headers with Debian's apt-get, without installing them, and tests examples/cpp; needs g++
# make support  exports every combination of the support table and writes docs/support.md
# make docs     builds the site of the pages and the reference into build/site, and checks its links
# make dist     builds the sdists and wheels of the three distributions into dist/
# make test-wheels  installs them into new environments of Python 3.11, 3.12 and 3.13, and runs the bundled example there
# make licences  lists the packages that users install, with versions and licences
# make release-notes TAG=v0.1.0  checks that versions and pages are those of a tag, and prints its section of CHANGELOG.md
# make audit    looks the locked packages up in a vulnerability service and checks licences; AUDIT_FLAGS='-s osv' asks another one
# make lock     writes requirements/*.txt again after a change of pyproject.toml; LOCK_FLAGS=--upgrade takes the newest versions
# PYTHON=python3.12 make …   chooses the interpreter (3.11 or newer)
# make test LOCKED=no         installs the newest versions that pyproject.toml allows, without hashes

PYTHON ?= python3
BIN := $(if $(filter Windows_NT,$(OS)),Scripts,bin)# of an environment
TAG ?=
TORCH ?= torch==2.13.0# what CI installs; pyproject.toml has the tested range; on a CPU machine install a CPU build
LOCKED ?= yes
LOCK_FLAGS ?=
AUDIT_FLAGS ?=
APT_FLAGS ?=
DEVICE ?= cuda
GPU_WORKERS ?= 8

# Hundreds of processes of the tests import PyTorch and transformers. Where the settings of a user or an image forbid to keep what
# Python compiles, each takes 20 s for that instead of 7. It is kept apart from the sources.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX ?= $(CURDIR)/build/pycache

# $(call install_lock,environment,lock file) creates an environment with what the lock file lists. Nothing is built (wheels only), and each
# downloaded file is compared with its hash. uv takes a quarter of the time of pip; pip does it where uv cannot, because uv does not read the
# settings of pip (indexes, proxies). --python, because UV_SYSTEM_PYTHON, for example, would install elsewhere; copies, because a change in
# one environment would change the linked files of all. Neither compiles: Python compiles what is imported, a part of the 14,000 files.
FROM_LOCK = --quiet --require-hashes --no-deps --only-binary :all: -r requirements
define install_lock
	$(PYTHON) -m venv $(1)
	$(from_lock)
endef
define from_lock
{ $(1)/$(BIN)/python -m pip install --no-compile $(FROM_LOCK)/uv.txt && \
	  $(1)/$(BIN)/python -m uv pip install --python $(1)/$(BIN)/python --link-mode copy $(FROM_LOCK)/$(2).txt; } || \
	  { echo "requirements/$(2).txt was not installed with uv; installing it with pip, which takes longer" >&2; \
	  $(1)/$(BIN)/python -m pip install --no-compile $(FROM_LOCK)/$(2).txt; } || \
	  { echo "requirements/$(2).txt does not install with $$($(PYTHON) --version): it covers CPython 3.11 to 3.13 on Linux, Windows on x86-64 and macOS 14 on arm64;" \
	  "make … LOCKED=no installs what pyproject.toml allows, without hashes" >&2; exit 1; }
endef

# $(call install_newest,environment,extras,PyTorch) installs the newest versions that pyproject.toml allows. The extra `export` also
# installs copies of the exporter and of the example; they are removed, because the tests must import those of the checkout.
define install_newest
	$(PYTHON) -m venv $(1)
	$(1)/$(BIN)/python -m pip install --quiet --no-compile $(3) -e '.[$(2)]'
	$(1)/$(BIN)/python -m pip uninstall --quiet --yes adapterdrop-onnx-exporter adapterdrop-onnx-example
endef

# $(call install,environment,lock file) adds torch, which has no hash in the lock because each of its builds has another one, and
# this project. pip unpacks torch while uv installs the lock: each leaves one core idle. What a build of torch requires and the lock lacks
# (CUDA, for example) comes with the second call, which otherwise does nothing.
ifeq ($(LOCKED),yes)
define install
	$(PYTHON) -m venv $(1)
	$(1)/$(BIN)/python -m pip install --quiet --no-compile --no-deps $(TORCH) & torch=$$!; trap "kill $$torch" INT TERM; \
	  ( $(from_lock) ); lock=$$?; wait $$torch && exit $$lock
	$(1)/$(BIN)/python -m pip install --quiet --no-compile $(TORCH)
	$(1)/$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	$(1)/$(BIN)/python -m pip check
	touch $(1)/installed
endef
else
define install
	$(call install_newest,$(1),$(EXTRAS),$(TORCH))
	touch $(1)/installed
endef
endif

.PHONY: export test test-all lint unit test-javascript test-cpp test-tensorrt test-webgpu test-peft5 test-torch gpu support benchmark docs dist test-wheels licences release-notes audit lock clean

export: .venv/installed
	.venv/$(BIN)/python -m exporter --drop 5 --output onnx --overwrite
	.venv/$(BIN)/python -m runtime onnx --text "The new phone is fast, and the screen is gorgeous."

test: .venv-test/installed
	@$(MAKE) --no-print-directory --jobs 2 lint unit

# mypy needs one core for half a minute: it runs while the tests do.
lint: .venv-test/installed
	.venv-test/$(BIN)/ruff check .
	.venv-test/$(BIN)/ruff format --check .
	.venv-test/$(BIN)/mypy

# A third worker on two cores makes the run longer, not shorter.
unit: .venv-test/installed
	.venv-test/$(BIN)/python -m pytest -n 2

# An empty -m also selects the tests marked sweep, which pyproject.toml deselects.
test-all: .venv-test/installed
	.venv-test/$(BIN)/python -m pytest -n 2 -m ""

# make test skips tests whose requirements are missing; in these two targets, which prepare them, such tests fail.
test-javascript: .venv-test/installed
	npm --prefix examples/javascript install --ignore-scripts
	.venv-test/$(BIN)/python -m pytest --no-skips tests/examples/test_javascript.py

test-cpp: .venv-test/installed build/cpp/installed
	.venv-test/$(BIN)/python -m pytest --no-skips tests/examples/test_cpp.py

# The library is that of ONNX Runtime's wheel. Debian 13 and Ubuntu 25.04 are the first to have its headers.
build/cpp/installed:
	mkdir -p build/cpp
	if [ "$$(id -u)" = 0 ]; then apt-get $(APT_FLAGS) update; fi
	cd build/cpp && apt-get $(APT_FLAGS) download libonnxruntime-dev nlohmann-json3-dev && for each in *.deb; do dpkg -x "$$each" . || exit 1; done
	touch $@

test-tensorrt: .venv-tensorrt/installed
	.venv-tensorrt/$(BIN)/python -m pytest tests/exporter/test_tensorrt.py

test-webgpu: .venv-webgpu/installed
	tests/helpers/software_vulkan.sh .venv-webgpu/$(BIN)/python -m pytest --no-skips tests/gpu/test_webgpu.py --device cpu

# Tests that neither import the adapters library nor are marked as needing it; -m also selects those marked sweep.
PEFT5_TESTS = tests/exporter/models/test_peft_models.py tests/exporter/checkpoints/test_peft_load.py tests/exporter/test_families.py \
  tests/exporter/test_support_peft.py tests/exporter/test_architectures_peft.py tests/exporter/test_peft_example.py \
  tests/exporter/cli/test_peft_command_line.py tests/exporter/models/test_peft_tuners.py tests/exporter/models/test_peft_biases.py \
  tests/exporter/checkpoints/test_peft_initializations.py tests/exporter/checkpoints/test_peft_tasks.py tests/exporter/test_padding.py tests/exporter/test_pipelines.py

test-peft5: .venv-peft5/installed
	.venv-peft5/$(BIN)/python -m pytest -n 2 -m "not adapters" $(PEFT5_TESTS)

# -W default: warnings of other versions than the locked ones are no errors here.
gpu:
	$(PYTHON) -m pytest tests/gpu --device $(DEVICE) -n $(GPU_WORKERS) -W default
	$(PYTHON) -m benchmarks --device $(DEVICE)

# Tests in which a trace depends on the version of PyTorch. The environment is made again where TORCH names another one.
TORCH_TESTS = tests/exporter/trace tests/exporter/test_support.py tests/exporter/test_export.py tests/exporter/test_export_routed.py

test-torch:
	@if ! grep -qsxF '$(TORCH)' .venv-torch/installed; then rm -rf .venv-torch; fi
	@$(MAKE) --no-print-directory .venv-torch/installed
	.venv-torch/$(BIN)/python -m pytest -n 2 -m "" $(TORCH_TESTS)

support: .venv-test/installed
	.venv-test/$(BIN)/python -m tests.helpers.support_table

benchmark: .venv-test/installed
	.venv-test/$(BIN)/python -m benchmarks --quick

.venv/installed: EXTRAS = export,adapters,cpu
.venv/installed: pyproject.toml requirements/export.txt
	$(call install,.venv,export)

.venv-test/installed: EXTRAS = export,adapters,cpu,benchmark,training,test
.venv-test/installed: pyproject.toml requirements/test.txt
	$(call install,.venv-test,test)

.venv-tensorrt/installed: EXTRAS = export,adapters,cpu,tensorrt,test
.venv-tensorrt/installed: pyproject.toml
	$(call install_newest,.venv-tensorrt,$(EXTRAS),$(TORCH))
	touch $@

.venv-webgpu/installed: EXTRAS = export,adapters,cpu,webgpu,test
.venv-webgpu/installed: pyproject.toml
	$(call install_newest,.venv-webgpu,$(EXTRAS),$(TORCH))
	touch $@

.venv-peft5/installed: EXTRAS = export,peft,cpu,tokenizers,test-peft
.venv-peft5/installed: pyproject.toml requirements/peft5.txt
	$(call install,.venv-peft5,peft5)

# Not from the lock: CUDA builds of other versions of PyTorch require other packages.
.venv-torch/installed: EXTRAS = export,adapters,cpu,test
.venv-torch/installed: pyproject.toml
	$(call install_newest,.venv-torch,$(EXTRAS),'$(TORCH)')
	echo '$(TORCH)' > $@

docs: .venv-docs/installed
	PATH="$(CURDIR)/.venv-docs/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 .venv-docs/$(BIN)/python -m mkdocs build

dist: .venv-test/installed
	.venv-test/$(BIN)/python -m tests.helpers.distributions dist

test-wheels: .venv-test/installed
	.venv-test/$(BIN)/python -m pytest tests/test_wheels.py --fresh-environments

licences: .venv-test/installed
	@.venv-test/$(BIN)/python -m tests.helpers.licences

release-notes: .venv-test/installed
	@.venv-test/$(BIN)/python -m tests.helpers.release '$(TAG)'

# The environment of the two programs that work on the lock, installed from a lock as well.
.venv-tools/installed: requirements/tools.txt
	$(call install_lock,.venv-tools,tools)
	touch $@

.venv-docs/installed: requirements/docs.txt
	$(call install_lock,.venv-docs,docs)
	touch $@

audit: .venv-test/installed .venv-tools/installed
	.venv-test/$(BIN)/python -m tests.helpers.audit .venv-tools/$(BIN)/pip-audit $(AUDIT_FLAGS)

# --universal: one file for all platforms and Python versions. test.txt comes first: export.txt is a part of it.
LOCK = .venv-tools/$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command "make lock" $(LOCK_FLAGS)
LOCK_PROJECT = $(LOCK) pyproject.toml requirements/build.in requirements/torch.in --excludes requirements/excludes.txt

lock: .venv-tools/installed
	$(LOCK_PROJECT) --extra export --extra adapters --extra cpu --extra benchmark --extra training --extra test --output-file requirements/test.txt
	$(LOCK_PROJECT) --extra export --extra adapters --extra cpu --constraints requirements/test.txt --output-file requirements/export.txt
	$(LOCK_PROJECT) --extra export --extra peft --extra cpu --extra tokenizers --extra test-peft --output-file requirements/peft5.txt
	$(LOCK) requirements/uv.in --output-file requirements/uv.txt
	$(LOCK) requirements/tools.in --constraints requirements/uv.txt --output-file requirements/tools.txt
	$(LOCK) requirements/docs.in --output-file requirements/docs.txt

clean:
	rm -rf .venv .venv-test .venv-tensorrt .venv-webgpu .venv-peft5 .venv-torch .venv-tools .venv-docs build/pycache
