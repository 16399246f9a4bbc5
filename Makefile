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
