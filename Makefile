# make lab        open the seven notebooks in JupyterLab                 (ARGS="--port=9000": options of JupyterLab)
# make test       run the tests and the notebooks, and these again as on an older CPU    (ARGS="tests/test_structure.py -v": only some)
# make chapters   run the notebooks into build/, as HTML pages and slides (SPRITES_LAB_SCALE=full: at full scale)
#
# The first call creates .venv and installs into it; later calls start at once.
# PYTHON=python3.12   another Python for .venv
# WORKERS=4           test files side by side, 2 unless given; each needs a core and about 1.5 GB
# TORCH_INDEX=...     take torch from another package index, such as PyTorch's CPU index (on the first call)
#
# For developers: make refresh (new stored outputs), make constraints (write down the versions in .venv),
# make crosscheck (our metrics against torchmetrics), make long (the tests that take minutes), make mutants (do the tests see bugs that are planted in schedule,
# samplers, predictors and checkpoints? a quarter of an hour; ARGS="sprites_lab.schedule*": only some), make clean

PYTHON ?= python3
PY := .venv/bin/python
WORKERS ?= 2
SPRITES_LAB_SCALE ?= quick
export SPRITES_LAB_SCALE
.DEFAULT_GOAL := lab
.PHONY: lab test long chapters refresh crosscheck mutants constraints clean

lab: .venv/ready
	@bash book/lab.sh $(ARGS)

# The second run has the kernels compute with other instructions: stored outputs must not depend on the CPU they were made on.
test: .venv/ready
	$(PY) -m pytest -n $(WORKERS) --dist loadfile $(ARGS)
ifndef ARGS
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(PY) -m pytest notebooks -n $(WORKERS) --dist loadfile
endif

long: .venv/ready
	$(PY) -m pytest tests -m long --durations=0 $(ARGS)

chapters: .venv/ready
	$(PY) -m book chapters $(ARGS)

refresh: .venv/ready
	$(PY) -m book refresh $(ARGS)

crosscheck: .venv/ready
	$(PY) -m pip install -q -e ".[crosscheck]"
	$(PY) -m pytest tests/test_crosscheck.py

mutants: .venv/ready
	$(PY) -m pip install -q -e ".[mutants]"
	OMP_NUM_THREADS=1 $(PY) -m mutmut run --max-children 1 $(ARGS)
	$(PY) -m mutmut results

constraints: .venv/ready
	echo '# The versions the stored outputs were made with; written by `make constraints`.' > constraints.tmp
	$(PY) -m pip list --format=freeze --exclude-editable --exclude pip --exclude setuptools --exclude wheel \
	  | sed 's/+.*//' | grep -viE '^(nvidia|cuda|triton)' >> constraints.tmp
	mv constraints.tmp constraints.txt
	touch .venv/ready

clean:
	rm -rf build mutants constraints.tmp .pytest_cache .hypothesis .ruff_cache *.egg-info
	find . -path ./.venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +

# The stamp holds the folder it was made in: a moved or copied project, or one whose Python is gone, is set up again.
ifneq ($(shell test -x $(PY) && cat .venv/ready 2>/dev/null),$(CURDIR))
.PHONY: .venv/ready
endif

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "sprites_lab needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing): name another with PYTHON=..."; exit 1; }
	@echo "Setting up .venv: this happens once, takes a few minutes and, with CUDA, about 5 GB."
	@$(PY) -c "" 2>/dev/null || rm -rf .venv
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv >/dev/null || \
	  { $(PYTHON) -m venv --clear --without-pip .venv && $(PYTHON) -m pip --python $(PY) install pip; } || \
	  { rm -rf .venv; echo "$(PYTHON) cannot make a virtual environment; on Debian or Ubuntu run: sudo apt install python3-venv"; exit 1; }
ifdef TORCH_INDEX
	$(PY) -m pip install --no-deps -c constraints.txt --index-url $(TORCH_INDEX) torch torchvision
endif
	$(PY) -m pip install -c constraints.txt -e ".[test,book,browser]"
	@$(PY) -c "import torch, torchvision"
	@echo "$(CURDIR)" > $@
