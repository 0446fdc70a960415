# Each task has a line of help. `make` alone prints them.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# MAKEFLAGS=-j8 in somebody's profile must not run two pips in one environment, nor an image before it is built.
.NOTPARALLEL:
# In somebody's profile, these would run other code than ours, or install into another place.
unexport PYTHONHOME PYTHONINSPECT PYTHONPATH PYTHONSAFEPATH PYTHONWARNINGS
unexport PIP_CONSTRAINT PIP_DRY_RUN PIP_NO_BINARY PIP_PREFIX PIP_PYTHON PIP_ROOT PIP_TARGET PIP_USER
ifeq ($(wildcard docker/images.toml),)
$(error this is not the folder of the Makefile: make -C FOLDER)
endif
# The supported Pythons. PYTHON=python3.13 names one. By default it is python3, or the newest of these if python3 is too old.
PYTHONS := 3.15 3.14 3.13 3.12 3.11
BIN := .venv/bin
# buildx and uv write below the home folder. If it is read-only, they write here.
ifeq ($(shell [ -w "$$HOME" ] && echo writable),)
export BUILDX_CONFIG ?= $(CURDIR)/.venv/buildx
export UV_CACHE_DIR ?= $(CURDIR)/.venv/uv
endif

help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9%-]+:.*## / { sub("%", "NAME", $$1); printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --no-deps: a complete lock needs no resolver, and pip before 24 would look for the newest release of coverage[toml].
# --no-user: pip's configuration may ask for --user, which an environment refuses.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-user --no-deps --require-hashes
# The environment is made again if its Python is gone, or if PYTHON names another one. PYTHON=3.15 names the base of an
# image instead (below).
VENV_PYTHON = $(filter-out 3.%,$(PYTHON))
ifneq ($(VENV_PYTHON)$(shell [ -x $(BIN)/python ] || echo missing),)
.venv/pip: FORCE
endif
.venv/pip:
	@scripts/venv '$(VENV_PYTHON)' python3 $(PYTHONS)
# Each lock has a stamp, so that its packages are installed only once.
.venv/%.lock: requirements/%.txt .venv/pip
	@echo 'Installing $<'
	@$(INSTALL) -r $<
	@cp $< $@

run: .venv/app.lock ## serve on http://localhost:8080
	@$(BIN)/python -m app

test: .venv/app.lock .venv/test.lock ## run the tests (SLOW=1 adds the slow ones and checks the coverage of app/)
	@$(BIN)/python -m pytest --dist worksteal -p no:schemathesis \
	  $(if $(SLOW),--numprocesses auto --cov --cov-report=term-missing:skip-covered,--numprocesses 4 -m 'not slow')

SCRIPTS = .ci/run scripts/reproduce scripts/run-container scripts/stop-container scripts/venv tests/deploy/setup \
	tests/docs/newcomer tests/images/podman-steps tests/images/setup-browser tests/publish/setup
# The files whose prose is checked: documents, and files with comments.
PROSE = $(call GIT,ls-files '*.md' '*.py' '*Dockerfile' '*.yaml' Makefile .ci/run scripts)
check: .venv/app.lock .venv/test.lock .venv/lint.lock ## check types, format, documents, Dockerfiles and locks
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/pyrefly check
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 15))'; \
	  then echo 'the prose is not checked: proselint needs google-re2, which has no wheel for Python 3.15'; \
	  elif [ ! -e .git ]; then echo 'the prose is not checked: git lists the files, and this is not a clone'; \
	  else $(BIN)/python -m scripts.prose $(PROSE); fi
	$(BIN)/shellcheck $(SCRIPTS)
	$(BIN)/hadolint docker/*.Dockerfile docker/own/*.Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yaml
	$(BIN)/zizmor --quiet --persona=auditor --strict-collection --offline .github/workflows
	$(BIN)/check-jsonschema --builtin-schema vendor.renovate renovate.json
	@for file in docker/*.Dockerfile docker/own/*.Dockerfile; do docker buildx build --quiet --check --file $$file . || exit; done
	@rm -rf .venv/lock && cp -r requirements .venv/lock
	@$(MAKE) --no-print-directory --silent lock OUT=.venv/lock
	@diff -r .venv/lock requirements || { echo 'the locks are not what pyproject.toml asks for: make lock'; exit 1; }

format: .venv/lint.lock ## format the code
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

OUT ?= requirements
LOCK = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate \
	--custom-compile-command 'make lock' --python-version $(lastword $(PYTHONS))
# $(call PROVE,places,locks) resolves locks without installing them: a dependency that a lock lacks is an error, and so is a package without a wheel.
define PROVE
for place in $(1); do for python in $(lastword $(PYTHONS)) $(firstword $(PYTHONS)); do for lock in $(2); do \
  UV_REQUIRE_HASHES=1 $(BIN)/uv pip install --quiet --dry-run --only-binary :all: --target .venv/proof \
  --python-platform $$place --python-version $$python -r $$lock || \
  { echo "$$lock is not complete for Python $$python on $$place"; exit 1; }; done; done; done
endef
MACHINES = x86_64-manylinux_2_28 aarch64-apple-darwin x86_64-apple-darwin
OF_IMAGES = aarch64-manylinux_2_28 x86_64-unknown-linux-musl aarch64-unknown-linux-musl
lock: .venv/lint.lock ## write requirements/*.txt from pyproject.toml (UPGRADE=--upgrade takes the newest versions)
	$(LOCK) $(UPGRADE) pyproject.toml -o $(OUT)/app.txt
	for group in freeze test lint data images deploy bench; do \
	  $(LOCK) $(UPGRADE) --group $$group -c $(OUT)/app.txt -o $(OUT)/$$group.txt || exit; done
	$(call PROVE,$(MACHINES),$(OUT)/*.txt)
	$(call PROVE,$(OF_IMAGES),$(OUT)/app.txt $(OUT)/freeze.txt)

# Data
geodata: .venv/data.lock ## fetch the full, current DB-IP Lite files into data/ (continues if it was interrupted)
	@$(BIN)/python -m scripts.geodata
sample: .venv/data.lock ## make app/sample.mmdb, the small database in the app (needs npm; some minutes)
	$(BIN)/python -m scripts.sample
outline: .venv/pip ## draw the map in app/page.html (needs npm)
	$(BIN)/python scripts/outline.py
.PHONY: help run test check format lock geodata sample outline FORCE

# Images
ENGINE ?= docker
# The Dockerfiles need BuildKit, which Docker before 23, or somebody's profile, may turn off.
export DOCKER_BUILDKIT := 1
IMAGES := $(shell sed -n 's/^\[\([a-z0-9-]*\)\]$$/\1/p' docker/images.toml)
# Other programs set these, too: WSL sets NAME to the name of the machine. Take from the environment only a value for us.
NAME := $(filter $(IMAGES),$(NAME))
PLATFORM := $(filter linux/%,$(PLATFORM))
# Ask git only if this folder is the top of a checkout. Labels that depend on it are otherwise left out.
# --git-dir: a hook of git sets GIT_DIR, and the owner of the files may be another user.
GIT = $(if $(wildcard .git),$(shell git --git-dir .git $(1) 2>/dev/null $(2)))
# The web page of the origin, without credentials; empty for a local path.
WEB = s,^git@([^:/]+):,https://\1/,; s,^ssh://([^/@]*@)?([^:/]+)(:[0-9]+)?/,https://\2/,; s,//[^/]*@,//,; \
	s,[.]git$$,,; \,^https?://,p
LABELS = title=geoip licenses=MIT version=$(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' app/__init__.py) \
	$(addprefix revision=,$(call GIT,rev-parse HEAD)) \
	$(addprefix source=,$(call GIT,remote get-url origin,| sed -nE "$(WEB)"))
# Podman's own format has no health checks. With SELinux, its steps cannot read what they mount unless labels are disabled.
BUILD = $(ENGINE) build $(if $(findstring podman,$(ENGINE)),--format docker --security-opt label=disable) $(addprefix --platform ,$(PLATFORM)) \
	$(LABELS:%=--label org.opencontainers.image.%)
# PYTHON=3.15 names the base image of that version, without a digest that the Dockerfile has. FIXED: the images whose base has only one version.
NUMBER = $(filter 3.%,$(PYTHON))
FIXED := $(shell awk -F'[][]' '/^\[/ { name = $$2 } /^python *=/ { print name }' docker/images.toml)
BASE = $(if $(NUMBER),$(if $(filter $*,$(FIXED)),$(error $* has the Python of its base: leave PYTHON out),--build-arg \
	PYTHON=$(shell sed -n 's/^ARG PYTHON=python:[0-9.]*\([^@]*\).*/python:$(NUMBER)\1/p' docker/$*.Dockerfile)))
DOCKERFILE = $(if $(wildcard docker/$*.Dockerfile),docker/$*.Dockerfile,$(error there is no image $*: there are $(IMAGES)))
TAG = geoip:$*$(if $(PLATFORM),-$(notdir $(PLATFORM)))

images: $(addprefix image-,$(if $(NUMBER),$(filter-out $(FIXED),$(IMAGES)),$(IMAGES))) ## build all images
image-%: ## build one image of docker/images.toml (PYTHON=3.15, PLATFORM=linux/arm64, ENGINE=podman)
	$(BUILD) $(BASE) --tag $(TAG) --file $(DOCKERFILE) .
run-%: ## run an image in the background on http://localhost:8080
	@ENGINE='$(ENGINE)' PLATFORM='$(PLATFORM)' scripts/run-container $(TAG)
stop: ## stop that container
	@ENGINE='$(ENGINE)' scripts/stop-container
reproduce: reproduce-$(or $(NAME),NAME) ## build an image twice for release, and compare the digests: NAME=scratch
reproduce-%:
	@scripts/reproduce $(BUILD) $(BASE) --file $(DOCKERFILE) .
sbom-%: .venv/images.lock ## list the packages in an image, in build/NAME.spdx.json
	@mkdir -p build && rm -f build/$*.tar && $(ENGINE) save --output build/$*.tar geoip:$*
	SYFT_CHECK_FOR_APP_UPDATE=false $(BIN)/syft scan --quiet docker-archive:build/$*.tar --output spdx-json=build/$*.spdx.json.part \
		--source-name geoip --source-version $*
	@rm build/$*.tar && mv build/$*.spdx.json.part build/$*.spdx.json
# Two at once, each with files of its own: tests of one file may use the same container or tag.
TWO_FILES = --numprocesses 2 --dist loadfile
test-images: .venv/images.lock .venv/app.lock ## test every image that is built
	tests/images/setup-browser
	$(BIN)/pytest tests/images $(TWO_FILES)
test-arm64: .venv/images.lock .venv/app.lock ## build and test four images for arm64 (emulated: half an hour; ARM64="alpine or scratch")
	$(BIN)/pytest tests/images/arm64.py --numprocesses 2 $(if $(ARM64),-k "$(ARM64)")
.PHONY: images stop reproduce test-images test-arm64

# Your own app
own: .venv/pip $(if $(wildcard $(subst $() ,\ ,$(APP))/uv.lock),.venv/lint.lock) ## pack your own app: APP=path MODULE=package.module BASE=scratch
	@ENGINE='$(ENGINE)' $(BIN)/python -m scripts.own "$$APP" "$$MODULE" "$$BASE"
test-own: .venv/images.lock .venv/lint.lock ## pack each of examples/ on every base, and test it (some minutes)
	$(BIN)/pytest tests/own $(TWO_FILES) --durations 5
.PHONY: own test-own

# Comparison
COMPARE = $(BIN)/python docker/compare --build '$(BUILD)'
compare: .venv/images.lock ## measure all images that are built, and print the tables (some minutes; SKIP='second pull' builds no image)
	@$(COMPARE) $(if $(SKIP),--skip '$(SKIP)') $(IMAGES)
compare-docs: .venv/images.lock ## measure them, and write the figures into the documents
	@$(COMPARE) --docs docs $(IMAGES)
	@$(MAKE) --no-print-directory figures
.PHONY: compare compare-docs

# Release
VERSION ?= $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' app/__init__.py)
TIMEOUT ?= 600
PLATFORMS ?= linux/amd64,linux/arm64
# IMAGES="scratch distroless" publishes only these.
PUBLISH = $(BIN)/python -m scripts.publish $* --registry '$(REGISTRY)' --version '$(VERSION)' --timeout $(TIMEOUT) \
	--platforms $(PLATFORMS) $(addprefix --digests ,$(DIGESTS)) $(if $(JOIN),--join) \
	-- $(BUILD) $(BASE) --file docker/$*.Dockerfile .
SOURCE ?= $(call GIT,remote get-url origin,| sed -nE "$(WEB)")
publish: $(addprefix publish-,$(if $(NUMBER),$(filter-out $(FIXED),$(IMAGES)),$(IMAGES))) ## push all images, signed: REGISTRY=host/path (docs/release.md)
publish-%: .venv/images.lock
	@$(if $(wildcard docker/$*.Dockerfile),$(PUBLISH),echo 'publish: there is no image $*' >&2; exit 2)
verify: .venv/images.lock ## check a published image: IMAGE=host/path:scratch (COSIGN_PUBLIC_KEY or SOURCE)
	@$(BIN)/python -m scripts.verify '$(IMAGE)' --source '$(SOURCE)' --timeout $(TIMEOUT)
test-publish: .venv/images.lock .venv/app.lock ## test publishing and verifying with a registry on this machine (some minutes; as root)
	tests/publish/setup
	$(BIN)/pytest tests/publish --durations 5
.PHONY: publish verify test-publish

# Deployment
test-deploy: .venv/deploy.lock .venv/app.lock ## test deploy/ with the image that is built (as root, since it makes a network)
	tests/deploy/setup
	$(BIN)/pytest tests/deploy --durations 5
.PHONY: test-deploy

# Documentation
DOCUMENTS = README.md docs/article.md docs/comparison.md docs/ladder.md docs/workshop.md
figures: .venv/images.lock ## write the figures of docs/comparison.json and the differences of the Dockerfiles into the documents
	@$(BIN)/python docker/compare/figures.py docs/comparison.json $(DOCUMENTS)
screenshots: .venv/images.lock ## take the pictures of the page that `make run` or `make run-NAME` serves
	tests/images/setup-browser
	$(BIN)/python -m scripts.screenshot http://localhost:8080
test-docs: images .venv/images.lock .venv/app.lock ## run the commands in the documents, and compare their output (some minutes)
	tests/publish/setup
	$(BIN)/pytest --exitfirst tests/docs
	tests/docs/newcomer
.PHONY: figures screenshots test-docs

# Benchmark
bench: .venv/app.lock .venv/bench.lock ## measure the service beside its peers (twenty minutes; needs Linux and wrk; QUICK=1 is rough; ECHOIP=path adds echoip)
	@$(BIN)/python -m bench
.PHONY: bench
