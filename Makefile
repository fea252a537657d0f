# make run, make test: all that is needed first is made first.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test lint bench sdist deb rpm image sbom clean help

run: $(VENV)/.ready-to-run          ## the daemon of config.yaml, in the foreground; Ctrl-C stops it
	$(BIN)/graced run -c config.yaml

# By root, what boots machines runs beside the rest, and is printed after it.
LAB = tests/packaging tests/systemd
test: $(VENV)/.ready-to-test        ## every test; ARGS="-k drain -x" goes to pytest
ifeq ($(ARGS)$(shell id -u),0)
	@echo 'Some 4,000 tests in about 12 minutes; as long, beside them: four systemds are booted, packages'
	@echo 'built and installed. ARGS="-k drain -x" goes to pytest.'
	@told=$$(mktemp); trap 'rm -f $$told' EXIT; \
	$(BIN)/python -m pytest $(LAB) >$$told 2>&1 & lab=$$!; \
	$(BIN)/python -m pytest $(addprefix --ignore=,$(LAB)); status=$$?; \
	wait $$lab || status=$$?; cat $$told; exit $$status
else
	@echo 'Some 4,000 tests in about 10 minutes. ARGS="-k drain -x" goes to pytest.'
	@$(BIN)/python -m pytest $(ARGS)
endif

lint: $(VENV)/.ready-to-test        ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/mypy --strict

bench: $(VENV)/.ready-to-test       ## graced beside a bare fork loop, as ratios
	$(BIN)/python -m benchmarks $(ARGS)

# What is made lands in dist/. The version stands in graced/__init__.py; SOURCE_DATE_EPOCH, or
# else the last commit, gives the date.
sdist: $(VENV)/.ready-to-test       ## dist/graced-VERSION.tar.gz, and the wheel beside it
	$(INSTALL) build
	SOURCE_DATE_EPOCH=$$(packaging/source epoch) $(BIN)/python -m build --outdir dist

deb:                                ## dist/graced_VERSION_all.deb, with Debian's tools
	packaging/deb/build dist

rpm:                                ## dist/graced-VERSION-1.noarch.rpm, with rpmbuild
	packaging/rpm/build dist

image:                              ## dist/graced-VERSION.tar, with buildah, podman or docker
	packaging/container/build dist

sbom: $(VENV)/.ready-to-test        ## dist/graced-VERSION.cdx.json, what graced needs and is made of
	rm -rf build/sbom && $(BIN)/python -m venv --without-pip build/sbom && mkdir -p dist
	$(BIN)/python -m pip --python build/sbom/bin/python install --quiet '.[title]'
	sed "s/^dynamic = .*/version = \"$$(packaging/source version)\"/" pyproject.toml >build/sbom/graced.toml
	SOURCE_DATE_EPOCH=$$(packaging/source epoch) $(BIN)/cyclonedx-py environment build/sbom \
	    --pyproject build/sbom/graced.toml --output-reproducible \
	    --output-file dist/graced-$$(packaging/source version).cdx.json

clean:                              ## all that was made here, dist/ too
	rm -rf .venv .venv-* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:                               ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 8

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'graced needs Python 3.11 or newer: make PYTHON=python3.12 …' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo 'no venv module here: on Debian, apt install python3-venv' >&2; exit 1; }

$(VENV)/.ready-to-run: $(VENV)/pyvenv.cfg pyproject.toml
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.ready-to-test: $(VENV)/pyvenv.cfg pyproject.toml
	$(INSTALL) --editable '.[dev,title,packaging]'
	@touch $@ $(VENV)/.ready-to-run
