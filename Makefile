# Every chore has one word; `make help` lists them from the comments behind the targets.
SHELL := /bin/bash
export UV_PYTHON_DOWNLOADS := never
RUN := .venv/bin/

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-images test test-unit test-apart test-e2e test-corpus test-cluster cluster cluster-down lint generate golden bench chaos

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## install what is missing: system packages (apt, when root), uv, the Python environment
	@deploy/setup

demo: setup ## build, push, run and call examples of each runtime, twice; needs no server
	@$(RUN)python -m examples.demo

demo-images: setup ## images of a Dockerfile, by buildpacks and prebuilt on a Kubernetes of their own, as root
	@$(RUN)python -m examples.demo_images $(CLUSTER)

# Kubernetes and Kaniko are compiled by the first run on a machine, which takes minutes: with CI set, or by test-cluster.
test: test-unit test-apart ## all tests: unit, slow, end to end on real servers and compilers, on Kubernetes if it is compiled
	@$(RUN)python -m tests.lanes $$(if [ -n "$$CI" ] || $(RUN)python -m tests.cluster compiled; then echo tests/cluster; fi)

test-unit: setup ## only the fast tests, which cannot open a socket or start a process
	@$(RUN)python -m tests.lanes unit

# Tests of one process and its store each (tests/lanes.py has all other end-to-end ones): one a core.
# Rewriting the assertions takes each process seconds: what is rewritten is kept, whatever PYTHONDONTWRITEBYTECODE says.
test-apart: setup ## slow tests, which touch nothing either, explorations of the store, the store on PostgreSQL
	PYTHONDONTWRITEBYTECODE= $(RUN)python -m pytest -q -m slow tests/unit
	PYTHONDONTWRITEBYTECODE= $(RUN)python -m pytest tests/slow tests/e2e/test_exploration.py tests/e2e/test_store_postgres.py -n auto --maxprocesses 4 --dist worksteal

test-e2e: test-apart ## no unit tests, all others but the cluster's
	@$(RUN)python -m tests.lanes

# Its servers take turns with other sessions' and its first builds are cold: more time than a test has otherwise.
test-corpus: setup ## real projects from the registries: built, run, called, built again
	$(RUN)python -m pytest tests/corpus --timeout 1800

test-cluster: setup ## image builds on a real one-node Kubernetes of their own, as root
	$(RUN)python -m pytest tests/cluster

cluster: setup ## start such a Kubernetes and leave it running: prints KUBECONFIG and its registry
	@$(RUN)python -m tests.cluster up

cluster-down: ## end it, with all that it left
	@$(RUN)python -m tests.cluster down

# SEED plays one history, COUNT as many, FIRST is the first of them.
chaos: setup ## 200 histories of kills on real parts, an hour and a half; SEED=N plays one again
	$(RUN)python -m tests.chaos $(if $(SEED),--seed $(SEED),--count $(or $(COUNT),200) $(if $(FIRST),--first $(FIRST)))

# Subjects of commits since the one named here; a clone without it has nothing to compare.
SUBJECTS_SINCE := 015c3fb2b634

lint: setup ## format, lint, types, import contracts, generated files, subjects of commits
	$(RUN)ruff format --check .
	$(RUN)ruff check .
	$(RUN)ruff check --preview --select PLW1514 builder # a file of ours is UTF-8, whatever the locale of a machine is
	$(RUN)mypy builder bench tests
	$(RUN)lint-imports
	$(RUN)python -m builder.contract.generate --check
	$(RUN)python -m builder.doc --check
	@! git cat-file -e $(SUBJECTS_SINCE) 2>/dev/null || git log --no-merges --format=%s $(SUBJECTS_SINCE).. | \
	awk 'length > 72 { print "a subject of over 72 characters: " $$0; long = 1 } END { exit long }'

generate: setup ## write the generated files again
	$(RUN)python -m builder.contract.generate
	$(RUN)python -m builder.doc

golden: setup ## write the golden plans again
	$(RUN)python -m tests.golden.update

bench: setup ## measure against the bare toolchain and ko, write docs/benchmarks.md (an hour and a half, a quiet machine)
	$(RUN)python -m bench
