# make demo                  set up, then the whole job on generated videos: extract, train both streams, test, fuse
# make demo VIDEOS=<folder>  twostream start on your own clips: class folders, with train/ and val/ above or not, or a CSV;
#                            a second set needs a folder of its own: DEMO=<folder>
# make test                  set up, then the linters and the tests; JOBS=4 runs four tests at a time, instead of 2
# make test-slow             the tests that take minutes each
# make record-prep           kill extraction 1,000 times and write docs/record_prep.md; half an hour
# make record-resume         kill 200 trainings at random and write docs/record_resume.md; half an hour
# make fuzz                  10,000 hostile inputs for all programs; ten minutes; writes docs/record_fuzz.md
# make lock                  record the newest versions that fit in constraints.txt

PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
STAMP   = $(VENV)/.installed
DEMO   ?= demo
JOBS   ?= 2

.PHONY: setup demo test test-slow record-prep record-resume fuzz lint lock clean clean-setup
.DELETE_ON_ERROR:

setup: $(STAMP)

# uv, because it lets a project say with which setuptools a dependency's source package is built: Visdom 0.2.4, the
# last for Python 3.11, needs setuptools < 81 for that (pyproject.toml, [tool.uv]).
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(PYTHON) is Python %d.%d, expected 3.11 or newer: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "no venv module: on Debian, apt-get install python3-venv" >&2; exit 4; }
	$(BIN)/python -m pip install -q --disable-pip-version-check "uv>=0.9,<1"
	$(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode -c constraints.txt -e ".[dev]"
	$(BIN)/python -c "import cv2" 2>/dev/null || { $(HEADLESS_OPENCV); }
	@touch $@

# opencv-contrib-python loads libGL and glib of the desktop; servers without them get the same OpenCV without windows.
define HEADLESS_OPENCV
echo "OpenCV cannot be imported here: taking opencv-contrib-python-headless instead, which needs no libGL."; \
echo "To have the other one: apt-get install libgl1 libglib2.0-0, then make clean-setup setup"; \
version=$$($(BIN)/python -c "from importlib.metadata import version; print(version('opencv-contrib-python'))") && \
$(BIN)/uv pip uninstall -q --python $(BIN)/python opencv-contrib-python && \
$(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode "opencv-contrib-python-headless==$$version" && \
$(BIN)/python -c "import cv2"
endef

# -------------------------------------------------------------------------------------------------------------- demo

RUN     = $(BIN)/python
PREPARE = --short_side=96
TRAIN   = --input_size=80 --batch_size=16 --lr=0.002 --max_iterations=160 --stepvalues=100,140 --frame_step=2 --mirror=False --val_interval=80 \
          --pretrained=False --workers=2
WHERE   = --root=$(DEMO)/data --save_root=$(DEMO)/runs

demo: setup
ifdef VIDEOS
# Exit code 5: some videos were bad, and are listed; the others go on.
	$(BIN)/twostream start "$(VIDEOS)" --out=$(DEMO)/clips || [ $$? -eq 5 ]
else
	rm -rf $(DEMO)/data $(DEMO)/runs $(DEMO)/recognizer
	$(RUN) tests/toy.py --videos=$(DEMO)/videos
	$(RUN) prep/extract.py --videos=$(DEMO)/videos --root=$(DEMO)/data --input_types=rgb,farneback $(PREPARE)
	$(RUN) prep/build_annotations.py --videos=$(DEMO)/videos --root=$(DEMO)/data
	$(RUN) train.py $(WHERE) --dataset=toy --input_type=rgb $(TRAIN)
	$(RUN) train.py $(WHERE) --dataset=toy --input_type=farneback $(TRAIN)
	$(RUN) test.py $(WHERE) --input_type=rgb --workers=2
	$(RUN) test.py $(WHERE) --input_type=farneback --workers=2
	$(RUN) eval.py --save_root=$(DEMO)/runs
	$(BIN)/twostream export --report=$(DEMO)/runs/report.json --out=$(DEMO)/recognizer
	$(BIN)/twostream predict $(DEMO)/videos/val/red_left/red_left_10000.mkv --model=$(DEMO)/recognizer
	@echo "videos and images: $(DEMO)/videos, $(DEMO)/data; networks, logs, scores and report: $(DEMO)/runs; $(DEMO)/recognizer"
endif
	@command -v twostream >/dev/null || echo "to call twostream as written: . $(VENV)/bin/activate"

# ------------------------------------------------------------------------------------------------------------- tests

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One test process for each core; several threads in each would only wait for each other.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses=$(JOBS) --dist=loadfile

test-slow: setup
	$(BIN)/python -m pytest -q -m slow

record-prep: setup
	$(BIN)/python tests/kills.py --kills=1000 --out=docs/record_prep.md

record-resume: setup
	$(BIN)/python tests/training_kills.py --trials=200 --out=docs/record_resume.md

fuzz: setup
	$(BIN)/python tests/fuzz.py --inputs=10000 --out=docs/record_fuzz.md

lock: setup
	$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --all-extras --no-header --no-annotate pyproject.toml -o constraints.txt

clean:
	rm -rf $(DEMO) build *.egg-info

clean-setup:
	rm -rf $(VENV)
