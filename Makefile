# Every target sets up what it needs from a bare clone: a virtual environment in .venv, pinned by requirements.txt.
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHON ?= python3

# Containers often forbid compiled modules; each of the hundreds of gates that tests start would then compile 250 files
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check format bench soak chaos hostile scenarios docs clean setup lock compose-tool test-tools aiokafka aiokafka-oldest aiokafka-newest aiokafka-public

setup: $(READY)

$(READY): pyproject.toml requirements.txt
	@echo "setting up $(VENV) (once; it downloads some packages, which takes a minute or more)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gate needs Python >= 3.11; set PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@# xds-protos brings old copies of OpenTelemetry's messages along; whichever is written last stands (docs/howto/traces.md)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall \
	  $$(sed -n 's/^\(opentelemetry-proto==[^ ]*\).*/\1/p' requirements.txt)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Pins what pyproject.toml asks for, for all systems
LOCK := uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url pyproject.toml
lock:
	@command -v uv >/dev/null || { echo "uv is not installed: python3 -m pip install uv"; exit 2; }
	$(LOCK) --group dev --group interop --all-extras -o requirements.txt
	$(LOCK) --group dev --group bench --all-extras -o requirements-bench.txt
	$(LOCK) --group dev --group interop --group docs --all-extras -o requirements-docs.txt

demo: $(READY)
	@$(BIN)/gate demo

# What watches the clock runs alone; all else waits a good deal, so that three share two cores (CONTRIBUTING.md)
ALONE := tests/chaos/test_chaos.py tests/hostile/test_hostile.py tests/kafka/test_ready.py tests/client/test_in_time.py \
  tests/client/test_pacing.py tests/system/test_waiting.py tests/console/test_take_over_in_time.py \
  tests/chaos/test_rolling.py
WORKERS ?= 3
MARKS ?= not long

test: $(READY) test-tools
	$(BIN)/python -m pytest -m "$(MARKS)" --junitxml build/tests/together.xml \
	  -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(foreach part,$(ALONE),--ignore=$(part))
	$(BIN)/python -m pytest -m "$(MARKS)" --junitxml build/tests/alone.xml $(ALONE)
	@$(BIN)/python -m tests.durations build/tests/together.xml build/tests/alone.xml

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python docs/generated.py

# 200 kills of gates under a million requests, then a network that delivers late, then commands on a large backlog, ids
# that may come only once, and jobs of which only so many may run, each amid 20 kills: 45 minutes; replay with SEED=N
chaos: SEED ?= 1
chaos: $(READY)
ifdef CHAOS
	$(BIN)/python -m tests.chaos --seed $(SEED) $(CHAOS)
else
	$(BIN)/python -m tests.chaos --kills 200 --requests 1000000 --gates 3 --seed $(SEED) --minutes 15
	$(BIN)/python -m tests.chaos --late 100 --requests 100000 --seed $(SEED) --minutes 4
	$(BIN)/python -m tests.chaos.commands --parked 100000 --kills 20 --seed $(SEED)
	$(BIN)/python -m tests.chaos.once --requests 1000000 --kills 20 --minutes 10 --seed $(SEED)
	$(BIN)/python -m tests.chaos.running --kills 20 --minutes 4 --seed $(SEED)
endif

# Whatever a stranger can send, beside services that did nothing: ten minutes; HOSTILE="--seed 7 --only bombs" for a part
hostile: $(READY)
ifdef HOSTILE
	$(BIN)/python -m tests.hostile $(HOSTILE)
else
	$(BIN)/python -m tests.hostile --records 100000
	$(BIN)/python -m tests.hostile --tenants 1000000
endif

# What happens to requests that wait, on simulated time: each promise with its bound, and what was measured
scenarios: $(READY)
	$(BIN)/python -m bench.scenarios

# The pages as HTML, in build/docs. Warnings are errors: a link that leads nowhere, a page that nothing links
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --builder html docs build/docs
	@echo "build/docs/index.html"

$(VENV)/.docs: $(READY) requirements-docs.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	@touch $@

# Lets a test check docker-compose.yml with a real Compose tool; without one the test is skipped
compose-tool:
	@docker compose version >/dev/null 2>&1 || docker-compose version >/dev/null 2>&1 || \
	  { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq --no-install-recommends docker-compose >/dev/null; } || \
	  echo "no Compose tool, and none could be installed: install docker-compose by hand" >&2

# Ratios against each peer, into build/bench.json: half an hour; under four minutes with BENCH=--quick. The peers live in
# an environment of their own, for they hold some libraries back. Kafka Streams is built by Maven if there is one.
# BENCH=--pauses: how long gate and Kafka Streams stand when one of three brokers fails; --faults KIND,KIND of them alone.
# BENCH=--mesh: limits that processes share, beside limits, throttled-py, envoyproxy/ratelimit over Redis, gubernator: 8 minutes.
BENCH_VENV := .venv-bench
BENCH_READY := $(BENCH_VENV)/.ready

$(BENCH_READY): pyproject.toml requirements-bench.txt
	@echo "setting up $(BENCH_VENV) (once)"
	@$(PYTHON) -m venv $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	@$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

bench: $(BENCH_READY)
	$(BENCH_VENV)/bin/python -m bench $(BENCH)

# Whether memory stays flat over ten minutes of full load
soak: $(BENCH_READY)
	$(BENCH_VENV)/bin/python -m bench.soak $(SOAK)

# The tests that talk to Kafka, by the oldest and the newest aiokafka that pyproject.toml allows, and on the public path
# (docs/operations.md): 20 minutes. ONLY="public" for a part, TESTS="tests/kafka" for other tests
AIOKAFKA_OLDEST := 0.13.0
AIOKAFKA_NEWEST := aiokafka>=0.13,<0.15
ONLY ?= oldest newest public
TESTS ?= tests/kafka tests/client tests/cli/test_doctor.py tests/system/test_gate_runs.py tests/system/test_state.py \
  tests/system/test_transactions.py tests/system/test_hostile_records.py tests/system/test_public_path.py \
  tests/chaos/test_torn.py tests/chaos/test_twice.py tests/chaos/test_unanswered.py tests/chaos/test_refusals.py
aiokafka: $(addprefix aiokafka-,$(ONLY))

build/aiokafka-oldest:
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ aiokafka==$(AIOKAFKA_OLDEST)

build/aiokafka-newest:
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ "$(AIOKAFKA_NEWEST)"

aiokafka-oldest aiokafka-newest: aiokafka-%: $(READY) build/aiokafka-%
	PYTHONPATH=$(CURDIR)/build/$@ GATE_AIOKAFKA=fast $(BIN)/python -m pytest $(TESTS)

aiokafka-public: $(READY)
	GATE_AIOKAFKA=public $(BIN)/python -m pytest $(TESTS)

# What tests look at the gate with: Alertmanager, Chromium, promtool, and axe-core for what is hard to read or to reach. Each
# is fetched once, or what is missing is told; tests that need it are then skipped
AXE := 4.14.1
AXE_SHA256 := 29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c
test-tools: compose-tool build/axe.min.js build/promtool
	@command -v prometheus-alertmanager >/dev/null || command -v alertmanager >/dev/null || \
	  { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus-alertmanager >/dev/null; } || \
	  echo "no Alertmanager, and none could be installed: install prometheus-alertmanager by hand" >&2
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	  { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || \
	  echo "no Chromium, and none could be installed: install chromium by hand" >&2

build/axe.min.js:
	@mkdir -p build/axe && cd build/axe && npm pack --silent --ignore-scripts axe-core@$(AXE) >/dev/null && \
	  tar -xzf axe-core-$(AXE).tgz package/axe.min.js && echo "$(AXE_SHA256)  package/axe.min.js" | sha256sum --check --quiet && \
	  mv package/axe.min.js ../axe.min.js || echo "no axe-core $(AXE): it takes npm, and the npm registry" >&2

build/promtool:
	@mkdir -p build/prometheus && ln -sf "$$(command -v promtool)" $@ 2>/dev/null && test -x $@ || { rm -f $@; cd build/prometheus && \
	  { apt-get download -qq prometheus 2>/dev/null || { apt-get update -qq && apt-get download -qq prometheus; }; } && \
	  dpkg-deb -x prometheus_*.deb . && mv usr/bin/promtool ../promtool; } || \
	  echo "no promtool, and none could be fetched: it is in Debian's prometheus" >&2

clean:
	rm -rf $(VENV) $(BENCH_VENV) build dist
