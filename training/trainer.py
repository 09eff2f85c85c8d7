"""Training of a diffusion model: the common training loop with label dropout, grids of samples and pushes."""

import shutil
from functools import cached_property

import numpy as np
from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm

from ddpm_hf.files import written_whole
from ddpm_hf.hub.cards import CARD_FILE, card_of
from ddpm_hf.hub.shared_files import files_to_share
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.pipelines.sample_files import files_of
from ddpm_hf.reports import loss_curve
from ddpm_hf.reports.report_files import TRAINING_OPTIONS
from ddpm_hf.samples import kind_of
from ddpm_hf.samples.condition_values import value_limits_of
from ddpm_hf.samples.kind import trained_shapes
from ddpm_hf.training.conditions import learned_labels, taught_condition, told
from ddpm_hf.training.continuous_objectives import CONTINUOUS, make_continuous_objective
from ddpm_hf.training.head_only import freeze_all_but_head
from ddpm_hf.training.held_out import measure_held_out
from ddpm_hf.training.objectives import make_objective
from ddpm_hf.training.sample_measures import channel_row, channels_of_data, levels_of
from ddpm_hf.training.samples import beside_examples, draw_samples, examples_of
from ddpm_hf.training.training_loop import Task, TrainingLoop
from ddpm_hf.visualization.style import save_figure

# The folder being pushed, separate from the folder to which the run keeps writing.
PUSHED_FOLDER = "pushed.tmp"


class Trainer(TrainingLoop):
    """Trains `unet` for the prediction type of `scheduler`; the result is the averaged weights.

    Args:
        args (`TrainingArguments`): the options, with counts in optimizer updates.
        accelerator (`accelerate.Accelerator`): devices, processes, precision, accumulation, trackers.
        unet (`UNet2DModel`), scheduler (`GaussianDiffusionScheduler`): network and scheduler before training.
        images: a data set of `ddpm_hf.data`.
        total_steps (`int`): updates to train for.

    Attributes:
        push (`BackgroundPush`, *optional*): uploads the model at every save; only in the main process.
        held_out (*optional*): images from `load_held_out` on which bits per dimension are measured.
        distance (`HeldOutDistance`, *optional*): measures samples against them.
        neighbours (`TrainingNeighbours`, *optional*): draws samples beside training images; only in the main process.
        vae (`AutoencoderKL`, *optional*): the autoencoder in whose latents the network is trained.
        captions (`tuple[str]`, *optional*): all different captions of the images.
    """

    logs = (*TrainingLoop.logs, loss_curve.BITS_PER_DIM_FILE, loss_curve.CHANNELS_FILE, loss_curve.DISTANCE_FILE)
    push = held_out = distance = neighbours = vae = captions = None

    def __init__(self, args, accelerator, unet, scheduler, images, total_steps):
        self.scheduler = scheduler
        self.unet_config = unet.config
        self.taught = taught_condition(unet, args)
        self.kind = kind_of(unet.config)
        task = Task(
            objective_of(args, scheduler, unet.config, accelerator.device), scheduler.config.num_train_timesteps
        )
        # A head must learn the errors of the prediction as in sampling, without dropout.
        unet = freeze_all_but_head(unet).eval() if args.train_head_only else unet.train()
        super().__init__(args, accelerator, unet, task, images, total_steps)

    def told(self, images, labels):
        return told(self.taught, self.model, self.kind.drawn(images), labels)

    def labels_to_learn(self, batch):
        return learned_labels(batch, self.unet_config, self.args)

    def between_updates(self):
        if self.is_due(self.args.sample_every):
            self.sample()
        if self.is_due(self.args.eval_every):
            self.evaluate()
        is_saved = self.is_due(self.args.sample_every) or self.is_due(self.args.checkpoint_every)
        if is_saved and self.args.push_to_hub:
            with self.clock_stopped():
                self.start_push()

    def save_pipeline(self, unet, folder):
        """Writes the network with the averaged weights as a pipeline folder."""
        GaussianDiffusionPipeline(unet=unet, scheduler=self.scheduler, vae=self.vae).save_pretrained(folder)

    def pipeline_of(self, unet):
        """The pipeline with this network, and with a scheduler of its own, because sampling sets timesteps."""
        scheduler = self.scheduler.from_config(self.scheduler.config)
        return GaussianDiffusionPipeline(unet=unet, scheduler=scheduler, vae=self.vae)

    def start_push(self):
        """Uploads the current model with the latest samples; every process must call this.

        It does nothing while another push is running; a later save is pushed then.
        """
        is_free = self.push is not None and not self.push.is_busy
        if broadcast_object_list([is_free])[0]:
            with self.averaged_model() as unet:
                if self.accelerator.is_main_process:
                    self._push(unet)

    def _push(self, unet):
        # From a separate folder, because the run keeps writing to its own.
        folder = self.folder / PUSHED_FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        self.save_pipeline(unet, folder)
        grids = sorted((self.folder / "samples").glob("*.png"))[-1:]
        for file in (self.folder / TRAINING_OPTIONS.name, self.folder / loss_curve.LOSS_FILE, *grids):
            if file.exists():
                copy = folder / file.relative_to(self.folder)
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, copy)
        card = card_of(folder, self.push.target.repository, self.args.hub_license)
        files = files_to_share(folder) | {CARD_FILE: card.encode()}
        self.push.start(files, f"Step {self.progress.step} of {self.total_steps}", self.folder)

    def sample(self):
        """Writes a grid of samples of the averaged weights, and sends it to the trackers."""
        with self.clock_stopped():
            with self.averaged_model() as unet:
                number = self.args.num_samples
                images = self._draw(unet, number, self._shapes(number))
                files = files_of(unet.config)
            if images is not None and self.accelerator.is_main_process:
                shown = images
                if self.taught is not None:
                    shown = beside_examples(images, unet.config, self._examples(number))
                grid = files.picture(shown)
                with written_whole(self.folder / "samples" / self._name_of_picture) as aside:
                    grid.save(aside)
                self._track_image(grid)
                if self.neighbours is not None:
                    with written_whole(self.folder / "neighbours" / self._name_of_picture) as aside:
                        save_figure(self.neighbours.sheet(levels_of(images)), aside)
            if images is not None and self.channels is not None:
                self._append_row(loss_curve.CHANNELS_FILE, channel_row(images, self.channels))
            self.stop_if_asked()

    @property
    def _name_of_picture(self):
        return f"step-{self.progress.step:06d}.png"

    @cached_property
    def channels(self):
        """The means and deviations of the channels of the data; None for points and streams."""
        return channels_of_data(self.images, self.kind.channels)

    def _draw(self, unet, number, shapes=None):
        pipeline, examples = self.pipeline_of(unet), self._examples(number)
        if shapes is not None:
            examples = (examples or {}) | {"shapes": shapes}
        return draw_samples(pipeline, self.accelerator, self.args, number, lambda: self.stop.signum, examples)

    def _shapes(self, number):
        """The shapes of so many samples of a grid, those of the training in turn; None for a network of one shape."""
        shapes = trained_shapes(self.unet_config)
        return [shapes[place % len(shapes)] for place in range(number)] if shapes else None

    def _examples(self, number):
        """So many data whose condition images, or numbers, the samples are told; None for a network without these."""
        is_told = self.taught is not None or value_limits_of(self.unet_config) is not None
        return examples_of(self.images, number, self.args.seed) if is_told else None

    def evaluate(self):
        """Writes what is measured on held-out images with the averaged weights to the tables and trackers."""
        with self.clock_stopped():
            with self.averaged_model() as unet:
                measured = measure_held_out(unet, self.scheduler, self.held_out, self.args, self.accelerator)
                samples = None if self.distance is None else self._draw(unet, self.distance.count)
            self._append_row(loss_curve.BITS_PER_DIM_FILE, measured)
            told = f"{measured['bits_per_dim']:.4f} bits per dimension on held-out images"
            if samples is not None:
                distance = self.distance.measure(samples)
                self._append_row(loss_curve.DISTANCE_FILE, {"frechet_distance": distance})
                told += f", a Frechet distance of {distance:.4g} to them" if self.accelerator.is_main_process else ""
            if self.accelerator.is_main_process:
                tqdm.write(f"{told} after update {self.progress.step}")
            self.stop_if_asked()

    def _append_row(self, name, measured):
        """Adds a row of this step to a table and to the trackers; every process must call this."""
        step, table = self.progress.step, self.folder / name
        self.accelerator.log(measured, step=step)
        if self.accelerator.is_main_process:
            # Replaces a measurement of this step from before the run was stopped.
            loss_curve.drop_rows_after(table, step - 1)
            loss_curve.append_row(table, {"step": step, **measured})

    def _track_image(self, image):
        pixels, step = np.asarray(image.convert("RGB"))[None], self.progress.step
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images({"samples": pixels}, step=step, dataformats="NHWC")
            elif tracker.name == "wandb":
                tracker.log_images({"samples": pixels}, step=step)
            elif tracker.name == "trackio":
                import trackio

                tracker.log({"samples": trackio.Image(image)}, step=step)


def objective_of(args, scheduler, unet_config, device):
    if isinstance(scheduler, CONTINUOUS):
        return make_continuous_objective(scheduler, args.likelihood_weighting, args.discrete_levels)
    levels = kind_of(unet_config).levels
    return make_objective(args.objective, scheduler, args.vlb_weight, args.min_snr_gamma, device, levels)
