# Everything lives in .venv; set-up is done again only when pyproject.toml or constraints.txt change.

.PHONY: demo gpu test

demo: .venv/demo.stamp
	.venv/bin/python -m sim

# What is measured on one NVIDIA GPU, in seven minutes; in three with GPU_OPTIONS=--quick. See docs/gpu.md.
gpu: .venv/gpu.stamp
	.venv/bin/python -m benchmarks.gpu $(GPU_OPTIONS)

test: .venv/test.stamp
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	OMP_NUM_THREADS=1 .venv/bin/pytest --numprocesses auto

.venv/demo.stamp: .venv/bin/python pyproject.toml constraints.txt
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/gpu.stamp: .venv/bin/python pyproject.toml constraints.txt
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[real]'
	touch $@

.venv/test.stamp: .venv/bin/python pyproject.toml constraints.txt
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# The first Python on the path that is new enough, or the one named by PYTHON=.
.venv/bin/python:
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3.14 python3; do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "$$python -m venv .venv"; exec $$python -m venv .venv; \
		fi; \
	done; \
	echo 'Python 3.11 or newer was not found: install it, or name it with make PYTHON=/path/to/python' >&2; exit 1
