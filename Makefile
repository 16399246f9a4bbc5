# Every target sets up what it needs itself: apt packages, a virtual environment from the lock, machine images.
# All of that lies in EDGE_CACHE_DIR and EDGE_LAB_DIR, outside the tree; `make clean` removes it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

export EDGE_CACHE_DIR ?= /var/cache/edge-litestream
export EDGE_LAB_DIR ?= /var/lib/edge-litestream-lab
export PYTHONPATH := $(CURDIR)/molecule/shared
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
VENV := $(EDGE_CACHE_DIR)/venv
export PATH := $(VENV)/bin:$(PATH)

# Machines need root; whoever is not root runs the same target again by sudo.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
HOST ?= edge01
export FAULTS ?=
export MINUTES ?= 10
export SEED ?=
export DEVICES ?= 2
export CUTS ?= 10
export BESIDE ?=
export FLEET ?=
export RECORD ?=
export AT_ONCE ?= 3
# The longest first.
export SCENARIOS ?= default life rings tokens

.PHONY: help demo test lint sanity unit matrix molecule faults test-debian-upgrade test-arm power-cuts bench fleet bench-gap bench-cost bench-fleet soak lab-up converge ssh lab-down docs dist lock setup clean

help: ## show this
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

ifneq ($(SUDO),)

demo test lint sanity unit matrix molecule faults test-debian-upgrade test-arm power-cuts bench fleet bench-gap bench-cost bench-fleet soak lab-up converge ssh lab-down docs dist setup clean:
	@exec $(SUDO) --preserve-env=EDGE_CACHE_DIR,EDGE_LAB_DIR,HOST,FAULTS,MINUTES,SEED,DEVICES,CUTS,BESIDE,FLEET,RECORD,AT_ONCE,SCENARIOS $(MAKE) --no-print-directory $@ HOST=$(HOST)

else

setup: ## install what the other targets need (they call it)
	@molecule/shared/setup.sh

demo: setup ## boot two devices, rotate, restore, compare: the experiment in minutes
	@python -m experiment.demo

test: setup lint sanity unit ## everything below up to molecule: what CI runs
	@python -m lab.scenarios $(SCENARIOS) matrix

lint: setup ## ansible-lint, yamllint, cfn-lint, ruff, mypy, shellcheck, actionlint, changelog
	@echo '==> lint' >&2
	yamllint --strict .
	# It installs the collection into its home, where it must not hide this clone.
	ANSIBLE_HOME=$(EDGE_CACHE_DIR)/ansible-lint ansible-lint --strict --offline -q
	cfn-lint files/aws-fleet.yaml
	ruff check --quiet .
	ruff format --check --quiet .
	mypy --no-error-summary
	shellcheck $$(git ls-files '*.sh') .ci/run
	actionlint
	antsibull-changelog lint

sanity: setup ## ansible-test sanity on the built collection
	@echo '==> ansible-test sanity' >&2
	tests/sanity/run.sh

unit: setup ## unit tests and their coverage
	@echo '==> unit tests' >&2
	coverage erase
	coverage run -m pytest --quiet --numprocesses 2 tests/unit/rotator
	coverage combine --quiet
	coverage report
	# Nothing of the program runs in these, and a playbook that is measured takes 1.4 times its CPU.
	python -m pytest --quiet --numprocesses 2 --ignore tests/unit/rotator

matrix: setup ## the same on Debian 13 with Python 3.13, and newer releases of ansible-core
	@echo '==> unit tests on Debian 13' >&2
	python tests/matrix/run.py

molecule: setup ## boot machines and verify the whole appliance, three scenarios at a time; SCENARIOS=life runs one alone
	@python -m lab.scenarios $(SCENARIOS)

faults: setup ## boot two devices and walk the table of faults: FAULTS=name,name walks some of it
	@python -m experiment.faults --boot

test-debian-upgrade: setup ## take two devices from Debian 12 to 13 by the playbook (8 to 20 minutes, not part of test)
	@python -m lab.scenarios debian

test-arm: setup ## boards of 64 and 32 bit, emulated, from bare to replicating (hours, not part of test; RECORD=1)
	@molecule/shared/setup_vm.sh
	AT_MOST_S=14400 python -m lab.scenarios board

power-cuts: setup ## kill an emulated board while rows are written: make power-cuts CUTS=10 (BESIDE=converges SEED=7 RECORD=1; 2 minutes a cut)
	@molecule/shared/setup_vm.sh
	python -m experiment.power_cuts --cuts $(CUTS) $(if $(BESIDE),--beside $(BESIDE)) $(if $(SEED),--seed $(SEED)) $(if $(RECORD),--record)

fleet: setup ## seconds of converges and status with 1, 5, 10 and 20 booted devices (an hour; FLEET="1 8" RECORD=1)
	@python tests/bench/converge.py $(FLEET) $(if $(RECORD),--record)

bench: setup ## cost of a tick and of a rotation beside curl, awscrt and a bare Python
	@python tests/bench/run.py

bench-gap: setup ## largest gap between uploads, per mode and load: make bench-gap MINUTES=10 (RECORD=1)
	@python -m experiment.gap --minutes $(MINUTES) $(if $(RECORD),--record)

bench-cost: setup ## requests, bytes and flash per day and profile: make bench-cost MINUTES=10 (RECORD=1 renews docs/cost.md)
	@python -m experiment.cost --minutes $(MINUTES) $(if $(RECORD),--record)

bench-fleet: setup ## simulate a million things after a power cut (RECORD=1 renews docs/scale.md)
	@python tests/bench/fleet.py $(if $(RECORD),--record)

soak: setup ## random faults while rows are written: make soak MINUTES=10 (SEED=7 DEVICES=4 RECORD=1)
	@python -m experiment.soak --minutes $(MINUTES) --devices $(DEVICES) $(if $(SEED),--seed $(SEED)) $(if $(RECORD),--record)

lab-up: setup ## boot the lab and set up its cloud; devices stay bare
	@python -m lab up
	ansible-playbook -i inventory/lab molecule/shared/cloud.yml

converge: ## playbooks/site.yml against the lab
	@ansible-playbook -i inventory/lab playbooks/site.yml

ssh: ## a shell on a machine of the lab: make ssh HOST=edge01
	@python -m lab ssh $(HOST)

lab-down: ## end the lab's machines
	@[ -x $(VENV)/bin/python ] || exit 0
	# Those of scenarios, too, which whoever was killed in the middle of one has left.
	for lab in $(EDGE_LAB_DIR) $$(compgen -G '$(EDGE_LAB_DIR)-*'); do EDGE_LAB_DIR=$$lab python -m lab purge; done

docs: setup ## write the pages that are made from the source
	@python docs/generate.py

dist: setup ## build the collection's archive and its digest in build/
	@mkdir -p build
	rm -f build/*.tar.gz build/SHA256SUMS
	ansible-galaxy collection build --output-path build
	cd build
	sha256sum ./*.tar.gz | sed 's,\./,,' | tee SHA256SUMS

clean: lab-down ## leave nothing behind: machines, images, virtual environment, results
	@rm -rf $(EDGE_CACHE_DIR) $(EDGE_LAB_DIR) $(EDGE_LAB_DIR)-* build .mypy_cache .ruff_cache .pytest_cache .hypothesis .ansible mutants
	rm -f .coverage .coverage.*
	find . -name __pycache__ -prune -exec rm -rf {} +

endif

lock: ## pin every dependency again, with hashes
	@uv=$(VENV)/bin/uv
	options="--quiet --universal --generate-hashes --no-header --no-emit-index-url --no-annotate"
	$$uv pip compile $$options --python-version 3.11 --extra control --extra test --output-file requirements.lock pyproject.toml
	for core in 2.20 2.21; do
		lock=tests/matrix/ansible-core-$$core.lock
		echo "ansible-core==$$core.*" | $$uv pip compile $$options --no-deps --python-version 3.13 --output-file $$lock -
	done
	echo 'ansible==12.*' | $$uv pip compile $$options --no-deps --python-version 3.11 --output-file molecule/shared/collections.lock -
	$$uv pip compile $$options --python-version 3.11 --output-file files/device-requirements.lock pyproject.toml
	$$uv pip compile $$options --python-version 3.11 --output-file files/device-build-requirements.lock files/device-build-requirements.in
	# What devices that pull run is what the tests run.
	grep -o '^ansible-core==[0-9.]*' requirements.lock | $$uv pip compile $$options --no-deps --python-version 3.11 --output-file files/device-pull-requirements.lock -
