# Every target sets up .venv first; `make install` returns at once when nothing has changed.
export PYTHONSAFEPATH = 1
# The name of our kernels/ must not be importable; PYTHONSAFEPATH keeps this folder off sys.path.
VENV = .venv/bin
MODEL ?= llava-next
KEEP_RATIO ?= 0.11

# The vLLM of `make test-vllm`: the supported one that .venv does not have.
VLLM ?= 0.33.0
PART ?= all

.PHONY: install demo test test-fast test-all test-gpu test-triton test-vllm gpu lmms check docs serve

install:
	python3 .ci/install.py

demo: install
	$(VENV)/python benchmarks/demo.py

# Servers and engines take both cores and are shared by a session, so their tests run one by one.
FAST = -n 2 --dist worksteal -m "not slow and not gpu and not real"
REAL = -m "real and not slow and not gpu"

test: install
	$(VENV)/pytest $(FAST)
	$(VENV)/pytest $(REAL)

test-fast: install
	$(VENV)/pytest $(FAST)

test-all: install
	$(VENV)/pytest $(FAST)
	$(VENV)/pytest -m "(real or slow) and not gpu"

test-gpu: install
	$(VENV)/pytest tests/kernels tests/worker -m gpu -rs

# The Triton that PyTorch brings: 2.13 and 2.14, and the next.
TRITONS = 3.7.1 3.8.0 3.9.0

test-triton: install
	set -e; for version in $(TRITONS); do \
	    $(VENV)/python -m pip install -q --no-deps --upgrade --target build/triton-$$version \
	        triton==$$version; \
	    PYTHONPATH=build/triton-$$version $(VENV)/pytest -m "not gpu" \
	        tests/kernels/test_compile.py tests/worker/test_warm_up.py; \
	done

# PART=short: probes, plugin, processors, one family behind its server, and script-demo's answers.
OTHER = .venv-$(VLLM)/bin/python -m pytest
SHORT = tests/patches tests/test_plugin.py tests/frontend tests/families
SHORT += tests/real/engine/test_identifiers.py tests/real/engine/test_pinned.py
SERVED = tests/real/families/test_served.py tests/real/server/test_demo.py

test-vllm: install
	$(VENV)/python .ci/overlay.py $(VLLM)
ifeq ($(PART),short)
	$(OTHER) -n 2 $(SHORT)
	$(OTHER) -m real $(SERVED) -k "qwen2.5-vl or test_demo"
else
	$(OTHER) $(FAST)
	$(OTHER) $(REAL)
endif

# All that only an NVIDIA GPU can show; for a part of it, make gpu GPU="--only kernels".
gpu: install
	$(VENV)/python benchmarks/gpu_report.py $(GPU)

# The papers' benchmarks; which of them, and of which model: make lmms LMMS="--tasks gqa pope"
lmms: install
	$(VENV)/python benchmarks/lmms_bench.py $(LMMS)

check: install
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/python .ci/typecheck.py

docs: install
	$(VENV)/python -m vllm_script.server.reference

serve: install
	$(VENV)/vllm serve $(MODEL) --plugin script --keep-ratio $(KEEP_RATIO)
