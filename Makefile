# The study on any machine with Python 3.11 or newer, git and make:
#
#   make study   every notebook, executed without a display; SCALE=quick|full|paper, FORCE=1 to do all again, JOBS=2 at
#                a time, PHOTO=me.jpg for the start notebook on your own photo
#   make lab     JupyterLab on the start notebook
#   make test    unit tests, rules for notebooks, every notebook, JupyterLab in a browser where chromium is installed
#   make benchmark  speed and memory, as ratios: the generator against its plain twin, and the methods of inversion; on a
#                CUDA device if there is one
#   make figures the committed figures again: every notebook at scale full, comparisons from recorded results. Not those
#                of figures/prior and figures/portraits, which come from the training portraits:
#                `python -m lib.model_cards`, `python -m lib.runs.provenance portraits`
#   make evaluate  the recorded results: scenes inverted by every method and measured (SCALE=full: hours on a CPU)
#   make graph   all of it as a graph, in which a change runs again only what depends on it (see Snakefile)
#   make lint    what the style checker says
#   make lock    pin the dependencies of pyproject.toml again
#   make clean   forget executed notebooks and caches; the environment stays
#
# Each target first makes the environment that it needs. PYTHON= names another interpreter. On Linux, pip takes the CUDA
# build of torch (gigabytes); for the CPU build set PIP_EXTRA_INDEX_URL to the CPU wheel index that pytorch's
# installation page names. pip reads its own configuration and proxies as usual.

VENV := .venv
PY := $(VENV)/bin/python
SCALE := quick
JOBS := 1
FORCE :=
PHOTO :=
START := notebooks/00_start_here.ipynb
FREE_GB := 6

# Beyond quick, scenes come from the 2D teacher and from Mitsuba too.
SCENES := $(if $(filter-out quick,$(SCALE)),$(VENV)/.full)

SUPPORTED := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p $(SUPPORTED) 2>/dev/null && echo $$p && break; done)

# Libraries of the system that OpenCV and mediapipe load and no wheel carries; servers often lack them.
LIBRARIES := libGL.so.1 libEGL.so.1 libGLESv2.so.2 libglib-2.0.so.0 libSM.so.6 libXext.so.6

.PHONY: study lab test benchmark evaluate figures graph lint lock clean
.DEFAULT_GOAL := study

study: $(VENV)/.study $(SCENES)
	$(PY) -m lib.runs --scale $(SCALE) --jobs $(JOBS) $(if $(FORCE),--force) \
		$(if $(PHOTO),--only 00_start_here --set "image=$$(realpath "$(PHOTO)")")

figures:
	$(MAKE) study SCALE=full

evaluate: $(VENV)/.study $(SCENES)
	$(PY) -m lib.evaluation --scale $(SCALE) --jobs $(JOBS)

graph: $(VENV)/.graph $(SCENES)
	$(PY) -m snakemake --cores $(JOBS) --config scale=$(SCALE)

lab: $(VENV)/.study
	$(VENV)/bin/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) $(START)

test: $(VENV)/.dev
	$(PY) -m pytest --nbval-lax tests notebooks

benchmark: $(VENV)/.study
	$(PY) -m benchmarks.generator
	$(PY) -m benchmarks.inversion
	$(PY) -m benchmarks.encoders

lint: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

lock: $(VENV)/.dev
	$(PY) -m venv $(VENV)/lock
	$(VENV)/lock/bin/python -m pip install --quiet pip-tools
	$(VENV)/lock/bin/pip-compile --quiet --all-extras --strip-extras --no-header --annotation-style=line \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file requirements.lock pyproject.toml
	@# Which build of torch a machine takes, and what that build brings along, is the machine's affair.
	{ echo '# Versions that work together, for pip install -c (see the Makefile). Made from pyproject.toml by: make lock'; \
	  sed -E -e '/^(nvidia|cuda|triton)/d' -e '/^$$/d' -e 's/^(torch==[^+ ]*)\+[a-z0-9]*/\1/' -e '/unsafe in a requirements/,$$d' \
	  requirements.lock; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean:
	rm -rf papermill_runs/out .pytest_cache .ruff_cache
	find lib tests notebooks -name __pycache__ -prune -exec rm -rf {} +
	find notebooks -name .ipynb_checkpoints -prune -exec rm -rf {} +

# A stamp says that the environment holds what the two files ask for. An interrupted installation leaves no stamp, and
# the next one goes on with what pip has cached.
$(VENV)/.study: pyproject.toml requirements.lock
	@test -n "$(PYTHON)" && $(PYTHON) $(SUPPORTED) || { \
		echo "error: this needs Python 3.11 or newer; found: $(or $(PYTHON),none)." \
		"Install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@free=$$(df -Pk . | awk 'NR == 2 {print int($$4 / 1048576)}'); test -x $(PY) || test $$free -ge $(FREE_GB) || { \
		echo "error: the environment needs about $(FREE_GB) GB here, and $$free GB are free" >&2; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { \
		echo "error: $(PYTHON) cannot make an environment; Debian and Ubuntu keep that in python3-venv" >&2; exit 1; }
	@$(PY) -m pip install --disable-pip-version-check -c requirements.lock -e . || { \
		echo "error: pip could not install the study (its own words are above). Check network, proxy and free disk;" \
		"the same command goes on from what was downloaded." >&2; exit 1; }
	@test "$$(uname)" != Linux || $(PY) -c 'import ctypes, sys; [ctypes.CDLL(name) for name in sys.argv[1:]]' \
		$(LIBRARIES) || { echo "error: the face landmarker needs a library that this system lacks (last line above)." \
		"Debian, Ubuntu: apt-get install libgl1 libegl1 libgles2 libglib2.0-0 libsm6 libxext6" >&2; exit 1; }
	@touch $@

$(VENV)/.full: $(VENV)/.study
	@$(PY) -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[data,heads]' || { \
		echo "error: pip could not install openvino and mitsuba (its own words are above)" >&2; exit 1; }
	@touch $@

$(VENV)/.graph: $(VENV)/.study
	@$(PY) -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[graph]' || { \
		echo "error: pip could not install snakemake (its own words are above)" >&2; exit 1; }
	@touch $@

$(VENV)/.dev: $(VENV)/.study
	@$(PY) -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev,heads,graph]' || { \
		echo "error: pip could not install the tools for development (its own words are above)" >&2; exit 1; }
	@git config filter.nbstripout.clean '$(VENV)/bin/nbstripout --keep-count --keep-id' 2>/dev/null || true
	@touch $@
