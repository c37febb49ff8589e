# Every target sets up .venv first; `make install` returns at once when nothing has changed.
export PYTHONSAFEPATH = 1
# The name of our kernels/ must not be importable; PYTHONSAFEPATH keeps this folder off sys.path.
VENV = .venv/bin
MODEL ?= llava-next
KEEP_RATIO ?= 0.11

.PHONY: install demo test test-fast test-all test-gpu check docs serve

install:
	python3 .ci/install.py

demo: install
	$(VENV)/python benchmarks/demo.py

# Servers and engines take both cores and are shared by a session, so their tests run one by one.
FAST = $(VENV)/pytest -n 2 -m "not slow and not gpu and not real"

test: install
	$(FAST)
	$(VENV)/pytest -m "real and not slow and not gpu"

test-fast: install
	$(FAST)

test-all: install
	$(FAST)
	$(VENV)/pytest -m "(real or slow) and not gpu"

test-gpu: install
	$(VENV)/pytest tests/kernels -m gpu -rs

check: install
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/python .ci/typecheck.py

docs: install
	$(VENV)/python -m vllm_script.server.settings_table

serve: install
	$(VENV)/vllm serve $(MODEL) --plugin script --keep-ratio $(KEEP_RATIO)
