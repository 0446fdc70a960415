# Every task, each with a line of help: `make` alone prints them.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# A stamp a lock file: what is installed already is not installed again.
.venv/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "geoip needs Python 3.11 or newer: make PYTHON=python3.13 …")'
	$(PYTHON) -m venv .venv
	@touch $@
.venv/%.lock: requirements/%.txt .venv/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@cp $< $@

run: .venv/app.lock ## serve on http://localhost:8080
	@$(BIN)/python -m app

test: .venv/app.lock .venv/test.lock ## run the tests, and show what of app/ they reach (SLOW=1: the minute-long ones too)
	@$(BIN)/pytest --cov --cov-report=term-missing:skip-covered $(if $(SLOW),,-m 'not slow')

check: .venv/app.lock .venv/test.lock .venv/lint.lock ## look for mistakes without running anything
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	@rm -rf .venv/lock && cp -r requirements .venv/lock && $(MAKE) --no-print-directory --silent lock OUT=.venv/lock
	@diff -r .venv/lock requirements || { echo 'the locks are not what pyproject.toml asks for: make lock'; exit 1; }

format: .venv/lint.lock ## lay the code out as `make check` wants it
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

OUT ?= requirements
LOCK = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate \
	--custom-compile-command 'make lock' --python-version 3.11
lock: .venv/lint.lock ## write requirements/*.txt anew from pyproject.toml (UPGRADE=--upgrade: the newest versions)
	$(LOCK) $(UPGRADE) pyproject.toml -o $(OUT)/app.txt
	for group in freeze test lint data images deploy; do \
	  $(LOCK) $(UPGRADE) --group $$group -c $(OUT)/app.txt -o $(OUT)/$$group.txt || exit; done

# Data
geodata: .venv/data.lock ## fetch the full, current DB-IP Lite files into data/ (goes on where it was interrupted)
	@$(BIN)/python -m scripts.geodata
sample: .venv/data.lock ## make app/sample.mmdb, the small database in the app, anew (needs npm; some minutes)
	$(BIN)/python -m scripts.sample
.PHONY: help run test check format lock geodata sample

# Images
IMAGES := buster-single buster alpine-single alpine distroless scratch
# The newest commit that changed what an image is made of: it dates every file in it.
EPOCH = $(shell git log -1 --format=%ct -- .dockerignore LICENSE app docker requirements)
BUILD = docker build --build-arg SOURCE_DATE_EPOCH=$(EPOCH) --build-arg REVISION=$(shell git rev-parse HEAD) \
	--build-arg VERSION=$(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' app/__init__.py) \
	--build-arg SOURCE=$(shell git remote get-url origin 2>/dev/null)

image-%-single: ## build one image, geoip:NAME
	$(BUILD) --target single --tag geoip:$*-single --file docker/$*.Dockerfile .
image-%:
	$(BUILD) --tag geoip:$* --file docker/$*.Dockerfile .
images: $(IMAGES:%=image-%) ## build all six
run-%: stop ## run one on http://localhost:8080, in the foreground
	docker run --rm --name geoip --publish 8080:8080 --read-only --cap-drop=ALL --security-opt=no-new-privileges geoip:$*
stop: ## stop it
	@docker stop geoip 2>/dev/null || true
sbom-%: .venv/images.lock ## list what is in one, as build/NAME.spdx.json
	@mkdir -p build
	$(BIN)/syft scan --quiet docker:geoip:$* --output spdx-json=build/$*.spdx.json
test-images: .venv/images.lock .venv/app.lock ## test every image that is built
	$(BIN)/pytest tests/images
.PHONY: images stop test-images

# Deployment
test-deploy: .venv/deploy.lock .venv/app.lock ## test deploy/ with the image that is built (as root: it makes a network)
	tests/deploy/setup
	$(BIN)/pytest tests/deploy --durations 5
.PHONY: test-deploy
