# kfp-foundry: two commands, `make demo` and `make test`, set up everything themselves.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
TYPED := build/typed/kfp_foundry

.PHONY: help torch demo test check lint types lock docs clean

help:  ## Shows this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(BIN)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	UV_COMPILE_BYTECODE=1 $(BIN)/uv pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --no-deps -e .
	@touch $@

# torch comes from a lock of its own: gigabytes that the demo does not need.
$(BIN)/.torch: $(BIN)/.ready requirements-torch.lock
	UV_COMPILE_BYTECODE=1 $(BIN)/uv pip install --quiet --require-hashes -r requirements-torch.lock
	@touch $@

torch: $(BIN)/.torch  ## Adds PyTorch, for trainer=torch

demo: $(BIN)/.ready  ## Trains, registers, serves and checks a model on real flights
	$(BIN)/kfp-foundry demo

test: $(BIN)/.torch check  ## Runs every check and the whole test suite
	$(BIN)/pytest -n 2 --dist loadscope --no-loadscope-reorder

check: $(BIN)/.ready lint types docs  ## Style, types, and that generated files are true

lint: $(BIN)/.ready  ## Style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(BIN)/.ready  ## Types; mypy sees the mapped packages through a folder of links
	@rm -rf build/typed && mkdir -p $(TYPED)
	@ln -s $(CURDIR)/src/kfp_foundry/* $(TYPED)/ && ln -s $(CURDIR)/components $(CURDIR)/pipelines $(TYPED)/ && ln -s $(CURDIR)/kserve/server $(TYPED)/server
	MYPYPATH=build/typed $(BIN)/mypy -p kfp_foundry

docs: $(BIN)/.ready  ## Component pages, schema and compiled pipelines are what the code says
	$(BIN)/kfp-foundry docs --check
	$(BIN)/kfp-foundry compile --check

lock: $(BIN)/.ready  ## Resolves requirements.lock anew
	$(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 --extra dev pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 --extra dev --extra torch -c requirements.lock pyproject.toml -o requirements-torch.lock

clean:  ## Removes what was built here
	rm -rf build dist $(VENV) src/*.egg-info
