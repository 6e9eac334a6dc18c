# Two commands carry the lab: `make reports` and `make test`. `make help` lists the rest.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
OTHERS := orchestrators airflow feast

DATASET ?= shop
SIZE ?= small
OUT ?=
PARAMS ?=
ONLY ?=
RESUME ?=
BUDGET ?=
MEMORY ?=
JOBS ?=
AGAINST ?=
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help install environments reference reports serve cluster-test test test-fast test-intervals test-kernels test-kernels-small test-orchestrators test-postgres test-wheel lab export readme benchmarks ledger clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'
	@echo
	@echo '  make reports DATASET=my_log          your own log in data/my_log'
	@echo '  make reports PARAMS="k=20 seed=1"    other parameters; 22.trials=20 goes to one chapter'
	@echo '  make reports ONLY=22 OUT=reports/try one chapter, into another folder'
	@echo '  make reports SIZE=full MEMORY=6      a shop as large as the published log, within 50 minutes and 6 GB'
	@echo '  make reports BUDGET=10m JOBS=1       another time for the whole run (none: as many settings as chapters say), one chapter at a time'
	@echo '  make reports RESUME=1                go on where a run broke off'

$(VENV)/.installed: constraints.txt settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "recsys_lab needs Python 3.11 or newer; say make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

$(PEERS)/.installed: tests/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --requirement tests/peers.txt
	@touch $@

.venv-%/.installed: tests/requirements-%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install --quiet --requirement $<
	@touch $@

install: $(VENV)/.installed ## make .venv with everything, pinned by constraints.txt

environments: $(VENV)/.installed $(PEERS)/.installed $(OTHERS:%=.venv-%/.installed) ## make .venv and those of the tests (with -j2 side by side)

reference: $(VENV)/.installed ## keep build/ci (a run on the smallest shop) as what CI compares a new version with
	$(BIN)/python tests/reference.py build/ci

reports: $(VENV)/.installed ## make the data, execute every chapter and bind the book
	$(BIN)/recsys-lab run --dataset '$(DATASET)' --size '$(SIZE)' --out '$(OUT)' --only '$(ONLY)' --params '$(PARAMS)' $(if $(RESUME),--resume) \
		$(if $(BUDGET),--budget '$(BUDGET)') $(if $(MEMORY),--memory '$(MEMORY)') $(if $(JOBS),--jobs '$(JOBS)')

serve: $(VENV)/.installed ## bundle the run of DATASET and serve it on port 8000 (after make reports)
	$(BIN)/recsys-lab bundle create '$(if $(OUT),$(OUT),reports/$(DATASET))' -o bundle
	$(BIN)/recsys-lab serve bundle --port 8000

# The year of chapter 99 takes as long as ten others: `make reports` executes it, and .ci/run that.
test: $(VENV)/.installed $(PEERS)/.installed ## exports in sync, chapters, tests, the wheel, linters, types
	$(BIN)/python tests/in_sync.py
	$(BIN)/recsys-lab data make shop --size tiny
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 2 --skip_file_re '^[_.]|^99_'
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist worksteal
	$(BIN)/python tests/built_wheel.py
	$(BIN)/ruff check .
	$(BIN)/mypy

test-fast: $(VENV)/.installed ## the tests that take two minutes together
	$(BIN)/recsys-lab data make shop --size tiny
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not slow"

test-wheel: $(VENV)/.installed ## the built wheel in clean environments of Python 3.11, 3.12 and 3.13, where they can be had
	$(BIN)/python tests/built_wheel.py 3.11 3.12 3.13

test-kernels: $(VENV)/.installed ## the same lists and choices under other BLAS kernels, and with other threads
	$(BIN)/recsys-lab data make shop --size tiny
	$(BIN)/python tests/kernels.py
	$(BIN)/python tests/kernels.py --choices tiny $(if $(AGAINST),--against '$(AGAINST)')

test-intervals: $(VENV)/.installed ## intervals and tests over a grid of simulated visitors (some minutes)
	$(BIN)/python tests/interval_grid.py

test-kernels-small: $(VENV)/.installed ## the same choices and conclusions on the small shop (half an hour)
	$(BIN)/recsys-lab data make shop --size small
	$(BIN)/python tests/kernels.py --choices small

test-orchestrators: $(VENV)/.installed $(OTHERS:%=.venv-%/.installed) ## Prefect, Airflow, an MLflow server and Feast, each in an environment of its own
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n 2 tests/lifecycle/test_orchestrators.py \
		tests/lifecycle/test_registry.py::test_a_registry_on_a_server tests/lifecycle/test_store.py::test_feast_gives_our_values

test-postgres: $(VENV)/.installed ## the database's tests against a PostgreSQL server of their own
	$(BIN)/python tests/with_postgres.py

cluster-test: $(VENV)/.installed ## real worker processes on loopback: equal results, and every kind of loss
	$(BIN)/recsys-lab data make shop --size tiny
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 tests/scale/cluster_checks.py

lab: $(VENV)/.installed ## open the chapters in JupyterLab
	$(BIN)/jupyter lab nbs

export: $(VENV)/.installed ## export the library from the chapters and clean them
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean

readme: $(VENV)/.installed ## make README.md from nbs/index.ipynb and reports/shop
	$(BIN)/recsys-lab readme

benchmarks: $(VENV)/.installed ## speed and quality beside other libraries (most need RECSYS_LAB_DATA)
	for name in full_size growth cluster import_size sessions sequences command_line evaluation_speed item_knn next_item collaborative ranking graph products search serving large_bundle feedback_log updates parity defaults factors samplers carves report; do $(BIN)/python benchmarks/$$name.py || exit 1; done

ledger: $(VENV)/.installed ## published numbers, computed again where they are missing (up to an hour; needs RECSYS_LAB_DATA)
	$(BIN)/recsys-lab reproduce

clean: ## remove what was made: environments, embedded data, books, fits, caches
	rm -rf $(VENV) $(PEERS) $(OTHERS:%=.venv-%) .venv-rectools build bundle bundle.previous data/shop data/.cache data/.downloads reports/*/book reports/*/fits reports/*/evaluations *.egg-info
	find . -name __pycache__ -o -name .ipynb_checkpoints -o -name .pytest_cache -o -name .mypy_cache -o -name .ruff_cache | xargs rm -rf
