# Two commands are all one needs:
#   make demo     outline structures on the bundled MRI (ARGS=--headless: without a window)
#   make test     run every test, those of the real viewer on a virtual screen
# Both install what is missing first; a second call installs nothing and starts at once.

BIN := .venv/bin
INSTALLED := .venv/.installed
CHECKERS := .venv/.checkers

.PHONY: demo test check setup system clean

demo: setup
	$(BIN)/segone demo $(ARGS)

# One thread a process: several processes that share the cores would wait for each other's threads.
test: setup $(CHECKERS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: system $(INSTALLED)

system:
	@sh scripts/setup.sh system

# Tried once, whether it succeeds or not: nothing depends on it.
$(CHECKERS): | $(INSTALLED)
	@sh scripts/setup.sh checkers
	@touch $@

$(INSTALLED): pyproject.toml constraints.txt scripts/setup.sh | system
	@PYTHON="$(PYTHON)" sh scripts/setup.sh python
	@touch $@

clean:
	rm -rf .venv build dist outputs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
