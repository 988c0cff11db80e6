# Two commands: `make run` and `make test`. What the machine lacks they install.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
CHDB_VERSION := 26.7.3-stable.1
CHDB_DIR := $(HOME)/.cache/heliostat/chdb/$(CHDB_VERSION)
CHDB_ARCH := $(if $(filter aarch64 arm64,$(shell uname -m)),arm64,x64)
CHDB_PACKAGE := @chdb/lib-linux-$(CHDB_ARCH)-gnu@$(CHDB_VERSION)
TARGET := $(or $(CARGO_TARGET_DIR),target)
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: run test lint check-compose bench clickhouse nextest system

## Build, and run the server with its own ClickHouse and a light stream of sample orders.
run: system clickhouse
	cargo build --release --locked
	scripts/run.sh "$(TARGET)/release/heliostat"

## Every check and test.
test: system clickhouse nextest lint check-compose
	cargo nextest run --release --locked --no-fail-fast

lint:
	cargo fmt --check
	cargo clippy --release --locked --all-targets -- -D warnings
	if command -v cargo-deny >/dev/null; then cargo deny --offline check licenses bans sources; \
	  else echo "cargo-deny is not installed: licences are not checked"; fi

check-compose:
	if ! command -v docker-compose >/dev/null; then \
	  $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends docker-compose; fi
	docker-compose config -q

bench: clickhouse
	cargo bench --bench pipeline

## What Debian has and a bare machine may lack.
system:
	missing=(); command -v cc >/dev/null || missing+=(build-essential); \
	command -v curl >/dev/null || missing+=(curl); \
	if [ ! -e "$(CHDB_DIR)/libchdb.so" ] && ! command -v clickhouse >/dev/null; then \
	  command -v npm >/dev/null || missing+=(npm); fi; \
	if [ $${#missing[@]} -gt 0 ]; then \
	  $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends "$${missing[@]}"; fi

## ClickHouse as a library, unless there is a `clickhouse` program or the library is there already.
clickhouse: system
	if [ ! -e "$(CHDB_DIR)/libchdb.so" ] && ! command -v clickhouse >/dev/null; then \
	  mkdir -p "$(CHDB_DIR)"; work=$$(mktemp -d); \
	  (cd "$$work" && npm pack --silent "$(CHDB_PACKAGE)" >/dev/null && tar xzf *.tgz); \
	  mv "$$work/package/libchdb.so" "$(CHDB_DIR)/libchdb.so"; rm -rf "$$work"; fi

nextest:
	cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest
