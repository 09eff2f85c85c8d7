# A fresh machine needs Python 3.10+ with venv, and make. Everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := outputs/demo
CORES := $(shell getconf _NPROCESSORS_ONLN)

.PHONY: demo test quality format figures clean

# Installed once, and again when the dependencies change; the code itself is linked, not copied.
$(VENV)/installed: setup.cfg constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

# Trains, or continues what was interrupted; then draws from the result, with ours and as someone without it would.
demo: $(VENV)/installed
	$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		--num_cpu_threads_per_process $(CORES) \
		training/train.py --preset fashion_mnist --output_dir $(DEMO)
	test -f $(DEMO)/samples.png || $(BIN)/ddpm-hf sample $(DEMO) --num_images 36 --steps 100 --output $(DEMO)/samples.png
	$(BIN)/python docs/load_stock.py
	@echo "Samples: $(DEMO)/samples.png. Loss curve: $(DEMO)/loss.png. Model: DiffusionPipeline.from_pretrained('$(DEMO)')."

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

quality: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

figures: $(VENV)/installed
	$(BIN)/python docs/figures.py --model $(DEMO)

clean:
	rm -rf $(VENV) build dist *.egg-info
