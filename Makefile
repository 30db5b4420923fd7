# Everything a user needs: `make train` and `make test` set up .venv by themselves.
#   ARGS         goes to the command:        make train ARGS="data=coco data.root=/path trainer.devices=2"
#   TORCH_INDEX  where torch comes from:     make train TORCH_INDEX=https://download.pytorch.org/whl/cpu
#   PYTHON       interpreter to set up with: make train PYTHON=python3.12

TORCH  := torch==2.13.0
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PY     := .venv/bin/python
READY  := .venv/.ready
BENCH  ?= coco_map loader mask_loss prompts
QUICK  ?= --quick
MODEL  ?= s4gan
COMPARE_s4gan := s4gan_camvid

.DEFAULT_GOAL := help
.PHONY: help train eval predict sweep diagnose compare test smoke lint type data-check bench results clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /|/' | \
	while IFS='|' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

# torch first and alone: no other package then draws in a larger build of it.
$(READY): constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer was not found; name it with PYTHON=..." >&2; exit 2; }
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@echo "setting up .venv (once; some minutes)"
	$(PY) -m pip install --quiet --disable-pip-version-check \
		$(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(PY) -m pip install --quiet --disable-pip-version-check -r constraints.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

train: $(READY)  ## train the default: SAM-LoRA on generated cells (ARGS="model=... data=...")
	@$(PY) train.py $(ARGS)

eval: $(READY)  ## score a checkpoint (ARGS="ckpt=runs/sam_lora/...")
	@$(PY) evaluate.py $(ARGS)

predict: $(READY)  ## masks for images (ARGS="ckpt=... input=IMAGE_OR_FOLDER prompt=nucleus")
	@$(PY) predict.py $(ARGS)

.PHONY: help train eval predict sweep diagnose compare test smoke lint type data-check bench results clean

compare: $(READY)  ## a family's recipes beside their controls, resumable (MODEL=s4gan, ARGS="--only 1_8.sound")
	@test -n "$(COMPARE_$(MODEL))" || { echo "error: MODEL=$(MODEL) has no comparison; there is s4gan." >&2; exit 2; }
	@$(PY) -m benchmarks.$(COMPARE_$(MODEL)) $(ARGS)

test: $(READY)  ## all tests (ARGS="tests/test_cli.py -k typo")
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 $(ARGS)

smoke: $(READY)  ## one batch of training, validation and test through the whole program
	@$(PY) train.py debug=fdr $(ARGS)

lint: $(READY)  ## ruff: rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

type: $(READY)  ## mypy
	$(PY) -m mypy

data-check: $(READY)  ## findings in a data folder (ARGS=/path/to/data)
	@$(PY) -m maskwell.data.checks $(ARGS)

bench: $(READY)  ## benchmarks in their quick form (QUICK= for the full one, BENCH=coco_map for one)
	@for name in $(BENCH); do echo "== $$name"; $(PY) -m benchmarks.$$name $(QUICK) $(ARGS) || exit 1; done

results: $(READY)  ## write the README's results table from benchmarks/results/*.json
	@$(PY) -m benchmarks.results_table

.PHONY: report demo notebooks docs

report: $(READY)  ## a page about a run, or several beside each other (RUN=runs/detr/... or RUN="compare A B")
	@test -n "$(RUN)" || { echo "error: name a run: make report RUN=last" >&2; exit 2; }
	@$(PY) -m maskwell.report $(RUN) $(ARGS)

# gradio wants an older pillow than constraints.txt names: it gets an environment of its own, which looks
# into .venv for everything that it does not hold itself.
DEMO := .venv-demo

$(DEMO)/.ready: $(READY)
	@echo "setting up $(DEMO) (once; a minute)"
	@$(PY) -m venv --clear $(DEMO)
	@below=$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	own=$$($(DEMO)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	echo "import site; site.addsitedir(r'$$below')" > "$$own/project.pth"
	@$(DEMO)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[demo]"
	@touch $@

demo: $(READY)  ## a page on this machine to try a model (CKPT=runs/sam_lora/...; .venv-demo holds gradio)
	@test -n "$(CKPT)" || { echo "error: name a model: make demo CKPT=runs/..." >&2; exit 2; }
	@$(MAKE) --silent --no-print-directory $(DEMO)/.ready
	@$(DEMO)/bin/python -m maskwell.demo $(CKPT) $(ARGS)

notebooks: $(READY)  ## run the four notebooks and take their time (ARGS=--quick: two steps each)
	@$(PY) -m benchmarks.notebooks $(ARGS)

docs: $(READY)  ## the manual as HTML in docs/_build
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[docs]" -c constraints.txt
	$(PY) -m sphinx -W --keep-going -b html docs docs/_build

clean:  ## remove caches and builds (not .venv, .venv-demo, runs)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
