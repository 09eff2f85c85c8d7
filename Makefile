# A fresh machine needs Python 3.10+ with venv, and make. Everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := outputs/demo
# The models of the pictures in docs/; another folder goes by `make figures STOCK=a/folder`.
STOCK ?= outputs/stock
WITH_CLASSES ?= outputs/with_classes
STEERED ?= outputs/steered
SWISS_ROLL ?= outputs/swiss_roll
SWISS_ROLL_CALIBRATED ?= outputs/swiss_roll_calibrated
COLOURS ?= outputs/colours
OVERFITTED ?= outputs/overfitted
LATENTS ?= outputs/latents
UPSCALERS ?= outputs/super_resolution
UNSEEN ?= outputs/unseen
EMOJI ?= outputs/emoji_model
CORES := $(shell getconf _NPROCESSORS_ONLN)

.PHONY: demo demo-more demo_text test quality format figures embedded notebooks docs dist check-dist clean

# Installed once, and again when the dependencies change; the code itself is linked, not copied.
$(VENV)/installed: setup.cfg constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

# Draws from the embedded model at once. Then trains a model of its own, or continues what was interrupted, and draws
# from it, with ours and as someone without it would.
demo: $(VENV)/installed
	test -f $(DEMO)_embedded.png || $(BIN)/ddpm-hf sample --num_images 36 --output $(DEMO)_embedded.png
	@echo "Drawn by the embedded model: $(DEMO)_embedded.png. Now a model of your own is trained, from nothing."
	$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		--num_cpu_threads_per_process $(CORES) \
		training/train.py --preset fashion_mnist --output_dir $(DEMO)
	test -f $(DEMO)/samples.png || $(BIN)/ddpm-hf sample $(DEMO) --num_images 36 --output $(DEMO)/samples.png
	$(BIN)/python docs/load_stock.py
	@echo "Samples: $(DEMO)/samples.png. Loss curve: $(DEMO)/loss.png. Model: DiffusionPipeline.from_pretrained('$(DEMO)')."
	@echo "With more time: make demo-more MINUTES=30 goes on from this model."

# Goes on from the model of `make demo`, in a second decay of the learning rate, for so many minutes.
MINUTES := 30
demo-more: $(DEMO)/model_index.json
	$(BIN)/ddpm-hf train --init_from $(DEMO) --minutes $(MINUTES) --batch_size 32 --learning_rate 1e-3 --lr_scheduler cosine \
		--lr_warmup_steps 40 --adam_beta2 0.99 --ema_decay 0.998 --timestep_sampling low_discrepancy --output_dir $(DEMO)_more
	test -f $(DEMO)_more/samples.png || $(BIN)/ddpm-hf sample $(DEMO)_more --num_images 36 --output $(DEMO)_more/samples.png

# An autoencoder, and a text-to-image model in its latents, both from nothing; draws each class from its caption, by the
# stock pipeline.
demo_text: $(VENV)/installed
	$(BIN)/ddpm-hf train_autoencoder --preset fashion_mnist --output_dir $(DEMO)_autoencoder
	$(BIN)/ddpm-hf train --preset fashion_mnist_text --vae $(DEMO)_autoencoder --output_dir $(DEMO)_text
	$(BIN)/python docs/draw_captions.py $(DEMO)_text
	@echo "Images and reconstructions: $(DEMO)_autoencoder/autoencoder.png. Captions drawn: $(DEMO)_text/captions.png."
	@echo "Draw another: $(BIN)/ddpm-hf sample $(DEMO)_text --prompt 'a photo of a Bag' --guidance_scale 3"

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

quality: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q tests/test_import_direction.py

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Every picture of README and docs. Models that are missing are trained first: minutes for points, hours on a CPU for the
# stock model and what is made from it.
figures: $(foreach m,$(STOCK) $(WITH_CLASSES) $(STEERED) $(SWISS_ROLL) $(SWISS_ROLL_CALIBRATED) $(COLOURS) $(OVERFITTED) $(LATENTS)/latents $(UPSCALERS)/upscaler_without_noise $(UNSEEN)/text $(EMOJI) $(DEMO)_text,$(m)/model_index.json)
	$(BIN)/python docs/figures.py --model stock=$(STOCK) --model with_classes=$(WITH_CLASSES) \
		--model steered=$(STEERED) --model swiss_roll=$(SWISS_ROLL) --model swiss_roll_calibrated=$(SWISS_ROLL_CALIBRATED) \
		--model colours=$(COLOURS) --model overfitted=$(OVERFITTED) --model demo_text=$(DEMO)_text \
		--model latents/latents=$(LATENTS)/latents --model latents/pixels=$(LATENTS)/pixels \
		--model super_resolution/upscaler_without_noise=$(UPSCALERS)/upscaler_without_noise \
		--model unseen/text=$(UNSEEN)/text --model emoji_model=$(EMOJI)

$(DEMO)/model_index.json: | $(VENV)/installed
	$(MAKE) demo

$(DEMO)_text/model_index.json: | $(VENV)/installed
	$(MAKE) demo_text

$(STOCK)/model_index.json: | $(VENV)/installed
	$(BIN)/python benchmarks/train_stock_model.py $(STOCK)

# The command of docs/latent_and_text.md.
$(LATENTS)/latents/model_index.json: | $(VENV)/installed
	$(BIN)/python benchmarks/latents_and_pixels.py $(LATENTS) --updates 600 --autoencoder_updates 700 --num_images 400

$(UNSEEN)/text/model_index.json: | $(VENV)/installed
	$(BIN)/python benchmarks/unseen_captions.py $(UNSEEN)

# The commands of docs/training.md; the pictures come from npm.
$(EMOJI)/model_index.json: | $(VENV)/installed
	test -d $(dir $(EMOJI))emoji || $(BIN)/python docs/emoji_pictures.py $(dir $(EMOJI))emoji
	$(BIN)/ddpm-hf train $(dir $(EMOJI))emoji --class_conditional --resolution 32 --random_flip --lr_scheduler cosine \
		--max_train_steps 8500 --output_dir $(EMOJI)

# The command of docs/conditions.md.
$(UPSCALERS)/upscaler_without_noise/model_index.json: | $(VENV)/installed
	$(BIN)/python benchmarks/super_resolution.py $(UPSCALERS) --updates 1500 --num_images 200 --seeds 2

# The commands of docs/guidance.md.
$(WITH_CLASSES)/model_index.json: | $(STOCK)/model_index.json
	$(BIN)/ddpm-hf train --init_from $(STOCK) --class_conditional --max_train_steps 500 --batch_size 64 --learning_rate 1e-3 \
		--lr_scheduler cosine --lr_warmup_steps 20 --adam_beta2 0.99 --ema_decay 0.99 --timestep_sampling low_discrepancy \
		--output_dir $(WITH_CLASSES)

$(STEERED)/model_index.json: | $(STOCK)/model_index.json
	$(BIN)/ddpm-hf train_classifier --model $(STOCK) --max_train_steps 1600 --batch_size 32 --learning_rate 1e-3 \
		--lr_scheduler cosine --lr_warmup_steps 50 --ema_decay 0.995 --dropout 0.1 --timestep_sampling low_discrepancy \
		--output_dir $(STEERED)

$(SWISS_ROLL)/model_index.json: | $(VENV)/installed
	$(BIN)/ddpm-hf train --preset swiss_roll --output_dir $(SWISS_ROLL)

$(SWISS_ROLL_CALIBRATED)/model_index.json: | $(SWISS_ROLL)/model_index.json
	$(BIN)/ddpm-hf calibrate $(SWISS_ROLL) --dataset swiss_roll --plan 25 --output_dir $(SWISS_ROLL_CALIBRATED)

# The commands of docs/conditions.md; the photographs come from the Hub.
$(COLOURS)/model_index.json: | $(VENV)/installed
	$(BIN)/python docs/grey_pairs.py uoft-cs/cifar10 $(dir $(COLOURS))photos --classes airplane ship
	$(BIN)/ddpm-hf train $(dir $(COLOURS))photos --condition_column grey --condition_dropout 0.1 --unet fashion_mnist \
		--batch_size 16 --max_train_steps 1000 --learning_rate 1e-3 --lr_scheduler cosine --lr_warmup_steps 50 \
		--adam_beta2 0.99 --ema_decay 0.995 --prediction_type v_prediction --beta_schedule squaredcos_cap_v2 \
		--output_dir $(COLOURS)

# The commands of benchmarks/memorisation.py.
$(OVERFITTED)/model_index.json: | $(VENV)/installed
	$(BIN)/ddpm-hf train --preset fashion_mnist --split 'train[:200]' --max_train_steps 2000 \
		--lr_scheduler constant_with_warmup --output_dir $(dir $(OVERFITTED))few
	$(BIN)/ddpm-hf train --init_from $(dir $(OVERFITTED))few --split 'train[:200]' --max_train_steps 5000 --batch_size 32 \
		--learning_rate 1e-3 --lr_scheduler cosine --lr_warmup_steps 40 --adam_beta2 0.99 --ema_decay 0.998 \
		--timestep_sampling low_discrepancy --output_dir $(OVERFITTED)

# Runs the notebooks of docs/ and keeps what they print and draw in them, and in their translations.
notebooks: $(VENV)/installed
	$(BIN)/python docs/notebooks.py

# The model inside the package, from the stock model on all of Fashion-MNIST; hours on a CPU.
FASHION_MNIST ?= zalando-datasets/fashion_mnist
embedded: $(STOCK)/model_index.json
	$(BIN)/ddpm-hf train --init_from $(STOCK) --dataset $(FASHION_MNIST) --class_conditional --label_dropout 0.1 \
		--max_train_steps 3000 --batch_size 64 --learning_rate 6e-4 --lr_scheduler cosine --lr_warmup_steps 50 \
		--adam_beta2 0.99 --ema_decay 0.998 --timestep_sampling low_discrepancy --output_dir outputs/classes
	$(BIN)/ddpm-hf calibrate outputs/classes --dataset $(FASHION_MNIST) --solver 5,10,25 --output_dir outputs/embedded
	$(BIN)/python benchmarks/embed_model.py outputs/embedded

# The guides as a site, in outputs/site.
docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The sdist, and the wheel that is built from it, in dist/. What an earlier build left would go in again.
dist: $(VENV)/installed
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

# The wheel in a fresh environment, with dependencies from the index; the tests of the sdist run against it.
INSTALLED := outputs/installed
check-dist: dist
	rm -rf $(INSTALLED) && $(PYTHON) -m venv $(INSTALLED)
	$(INSTALLED)/bin/python -m pip install --quiet -c constraints.txt "$$(ls dist/*.whl)[dev]"
	$(INSTALLED)/bin/python -m pip check
	tar -xzf dist/*.tar.gz -C $(INSTALLED)
	cd $(INSTALLED) && bin/ddpm-hf sample --output sample.png
	cd $(INSTALLED)/ddpm_hf-* && OMP_NUM_THREADS=1 ../bin/pytest -n auto --dist worksteal

clean:
	rm -rf $(VENV) build dist *.egg-info
