# Two commands: `make run` and `make test`. What the machine lacks they install.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
CHDB_VERSION := 26.7.3-stable.1
CHDB_DIR := $(HOME)/.cache/heliostat/chdb/$(CHDB_VERSION)
CHDB_ARCH := $(if $(filter aarch64 arm64,$(shell uname -m)),arm64,x64)
CHDB_PACKAGE := @chdb/lib-linux-$(CHDB_ARCH)-gnu@$(CHDB_VERSION)
TARGET := $(or $(CARGO_TARGET_DIR),target)
# The tests' profile: release, with debug assertions, overflow checks and failpoints in this crate. Clippy
# reads this crate as it is built.
CHECKED := --release --locked --config .config/checked.toml --features failpoints
UNIT := --release --locked --config .config/unit.toml --features failpoints --lib
LINTED := RUSTC_WORKSPACE_WRAPPER="$(CURDIR)/scripts/clippy_then_rustc.sh" cargo
NEXTEST := $(LINTED) nextest run $(CHECKED)
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

CLIENTS_DIR := $(HOME)/.cache/heliostat/clients
CLIENTS_PYTHON := cloudevents==2.2.0 requests==2.32.5 schemathesis==4.32.5 duckdb==2.0.0 clickhouse-connect==1.12.0 clickhouse-driver==0.2.11 moto[s3]==5.2.5 flask==3.1.3 flask-cors==6.0.5
CLIENTS_NODE := cloudevents@10.0.0 puppeteer-core@24.31.0
CLIENTS := $(CLIENTS_PYTHON) $(CLIENTS_NODE)

# TPC-DS: DuckDB's extension, and the DuckDB that it is for, which is not that of the other tests.
TPCDS_DIR := $(HOME)/.cache/heliostat/tpcds
TPCDS_PYTHON := duckdb==1.5.5 duckdb-extension-tpcds==1.5.5

# Superset, with what its package lacks or has too new.
SUPERSET_DIR := $(HOME)/.cache/heliostat/superset
SUPERSET_PYTHON := apache-superset==6.1.0 clickhouse-connect==1.12.0 flask-caching==2.3.1 cachetools==8.0.2 rich==15.0.0

.PHONY: run test env fresh bless bless-postgres superset superset-client tpcds tpcds-data chaos fuzz-sql fuzz-files fuzz-input lint advisories check-compose bench clickhouse clients postgres nextest deny system

## Build, and run the server with its own ClickHouse and a light stream of sample orders.
run: system clickhouse
	cargo build --release --locked
	scripts/run.sh "$(TARGET)/release/heliostat"

## Every check and test.
test: system clickhouse clients postgres tpcds-data nextest lint check-compose
	$(LINTED) nextest run $(UNIT) --no-fail-fast
	$(LINTED) build $(CHECKED) --bench '*' --examples
	$(NEXTEST) --test '*' --no-fail-fast

## The passwords of docker-compose.yml, random, in .env; one that is there stays.
env:
	scripts/env.sh

## Both commands above as a newcomer has them: a fresh clone, an empty HOME and CARGO_HOME. Takes the
## ports 8080 and 8123, and as long as two cold builds and the tests.
fresh:
	scripts/fresh.sh

## Writes the rows that views have into the files of tests/sql, with which the batch engines have to agree, the
## suites' plans, the page of functions, and how many instructions small workloads take.
bless: clients postgres nextest
	HELIOSTAT_BLESS=1 $(LINTED) nextest run $(UNIT) -E 'test(page_of_functions)'
	HELIOSTAT_BLESS=1 $(NEXTEST) --test sql --test suites --test instructions -E 'test(events_first) + test(plans_are) + test(instructions)'

## Writes the lists of tests/postgres: what PostgreSQL has, what is refused here, and what differs.
bless-postgres: postgres nextest
	HELIOSTAT_BLESS=1 $(NEXTEST) --test postgres

## All 99 queries of TPC-DS against PostgreSQL; `make test` runs every fourth.
tpcds: postgres tpcds-data nextest
	$(NEXTEST) --test suites --no-capture --run-ignored only -E 'test(tpcds_all)'

## Superset as an analyst's client of the own ClickHouse; its installation takes 800 MB.
superset: clickhouse superset-client nextest
	$(NEXTEST) --test access --no-capture --run-ignored only -E 'test(superset)'

superset-client: clients
	if [ "$$(cat "$(SUPERSET_DIR)/installed" 2>/dev/null)" != "$(SUPERSET_PYTHON)" ]; then \
	  rm -rf "$(SUPERSET_DIR)"; mkdir -p "$(SUPERSET_DIR)"; \
	  python3 -m venv "$(SUPERSET_DIR)/python"; \
	  "$(SUPERSET_DIR)/python/bin/pip" install --quiet --disable-pip-version-check $(SUPERSET_PYTHON); \
	  echo "$(SUPERSET_PYTHON)" > "$(SUPERSET_DIR)/installed"; fi

## A server under load whose processes, disk, query files and events go wrong, for CHAOS_SECONDS (an hour).
chaos: system clickhouse nextest
	HELIOSTAT_CHAOS_SECONDS=$(or $(CHAOS_SECONDS),3600) $(NEXTEST) --test chaos --no-capture --run-ignored only

## Random SQL programs against PostgreSQL for FUZZ_SECONDS (an hour).
fuzz-sql: postgres nextest
	HELIOSTAT_FUZZ_SECONDS=$(or $(FUZZ_SECONDS),3600) $(NEXTEST) --test sql --no-capture --run-ignored only generate::fuzz

## MUTATIONS (1,000) mutated query files through a running server.
fuzz-files: nextest
	HELIOSTAT_MUTATIONS=$(or $(MUTATIONS),1000) $(NEXTEST) --test planning --no-capture -E 'test(mutated_files)'

## Mutated frames and request bodies for FUZZ_SECONDS (an hour), both at once.
fuzz-input: nextest
	HELIOSTAT_FUZZ_SECONDS=$(or $(FUZZ_SECONDS),3600) $(NEXTEST) --test fuzz --no-fail-fast --success-output final --run-ignored only

## What needs no build of this crate.
lint: deny
	cargo fmt --check
	cargo fetch --locked
	cargo deny --offline check licenses bans sources

check-compose:
	if ! command -v docker-compose >/dev/null; then \
	  $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends docker-compose; fi
	work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; touch "$$work/none"; \
	scripts/env.sh "$$work/passwords" >/dev/null; \
	docker-compose --env-file "$$work/passwords" config -q; \
	told=$$(docker-compose --env-file "$$work/none" config -q 2>&1) && { \
	  echo "docker-compose.yml needs no passwords" >&2; exit 1; }; \
	grep -q "make env" <<< "$$told"

bench: clickhouse
	cargo bench --bench pipeline

## What Debian has and a bare machine may lack.
system:
	missing=(); command -v cc >/dev/null || missing+=(build-essential); \
	command -v curl >/dev/null || missing+=(curl); \
	compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || missing+=(libfaketime); \
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

## Programs of others that the tests run: a browser, valgrind, SDKs of CloudEvents, schemathesis, DuckDB.
clients: system
	missing=(); command -v chromium >/dev/null || missing+=(chromium); \
	command -v valgrind >/dev/null || missing+=(valgrind); \
	if [ $${#missing[@]} -gt 0 ]; then \
	  $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends "$${missing[@]}"; fi
	if [ "$$(cat "$(CLIENTS_DIR)/installed" 2>/dev/null)" != "$(CLIENTS)" ]; then \
	  missing=(); command -v node >/dev/null || missing+=(nodejs); command -v npm >/dev/null || missing+=(npm); \
	  python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv); \
	  if [ $${#missing[@]} -gt 0 ]; then \
	    $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends "$${missing[@]}"; fi; \
	  rm -rf "$(CLIENTS_DIR)"; mkdir -p "$(CLIENTS_DIR)/node"; \
	  python3 -m venv "$(CLIENTS_DIR)/python"; \
	  "$(CLIENTS_DIR)/python/bin/pip" install --quiet --disable-pip-version-check $(CLIENTS_PYTHON); \
	  npm install --silent --no-audit --no-fund --prefix "$(CLIENTS_DIR)/node" $(CLIENTS_NODE); \
	  echo "$(CLIENTS)" > "$(CLIENTS_DIR)/installed"; fi

## PostgreSQL 15, which says what SQL means. Only its programs: no cluster of the system's is made, and no
## service started; the tests make one of their own.
postgres: system
	if [ ! -x /usr/lib/postgresql/15/bin/postgres ]; then \
	  $(SUDO) apt-get update -qq; \
	  if ! command -v psql >/dev/null || ! dpkg -s postgresql-common >/dev/null 2>&1; then \
	    $(SUDO) apt-get install -y -qq --no-install-recommends postgresql-common; fi; \
	  $(SUDO) mkdir -p /etc/postgresql-common/createcluster.d; \
	  echo "create_main_cluster = false" | $(SUDO) tee /etc/postgresql-common/createcluster.d/heliostat.conf >/dev/null; \
	  $(SUDO) apt-get install -y -qq --no-install-recommends postgresql-15; fi

tpcds-data: clients
	if [ "$$(cat "$(TPCDS_DIR)/installed" 2>/dev/null)" != "$(TPCDS_PYTHON)" ]; then \
	  rm -rf "$(TPCDS_DIR)"; mkdir -p "$(TPCDS_DIR)"; \
	  python3 -m venv "$(TPCDS_DIR)/python"; \
	  "$(TPCDS_DIR)/python/bin/pip" install --quiet --disable-pip-version-check $(TPCDS_PYTHON); \
	  echo "$(TPCDS_PYTHON)" > "$(TPCDS_DIR)/installed"; fi

deny:
	cargo deny --version >/dev/null 2>&1 || cargo install --locked --debug cargo-deny

# Advisories need their database, which not every machine can fetch.
advisories: deny
	cargo deny check advisories

nextest:
	cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest
