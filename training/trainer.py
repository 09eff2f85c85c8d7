"""The training of a diffusion model: the loop of every training, with dropped labels, grids of samples and pushes."""

import shutil

import numpy as np

from ddpm_hf.hub.cards import CARD_FILE, card_of
from ddpm_hf.hub.model_folder import files_to_share
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.training.head_only import freeze_all_but_head
from ddpm_hf.training.objectives import drop_labels, make_objective
from ddpm_hf.training.run_folder import ARGUMENTS_FILE
from ddpm_hf.training.samples import sample_grid
from ddpm_hf.training.training_loop import TrainingLoop

# What is being pushed, apart from a run that writes on.
PUSHED_FOLDER = "pushed.tmp"


class Trainer(TrainingLoop):
    """Trains `unet` to predict what `scheduler` asks for; the averaged weights are the result.

    Args:
        args (`TrainingArguments`): the options; its counts are in optimizer updates.
        accelerator (`accelerate.Accelerator`): devices, processes, precision, accumulation, trackers.
        unet (`UNet2DModel`), scheduler (`GaussianDiffusionScheduler`): as they are before training.
        images: a data set of `ddpm_hf.training.data`.
        total_steps (`int`): updates to train for.
        num_classes (`int`, *optional*): labels are below it, and it is the null label.
        workers (`int`): processes that prepare batches.
        push (`BackgroundPush`, *optional*): gets the model at every save; of the main process alone.
    """

    def __init__(
        self, args, accelerator, unet, scheduler, images, total_steps, num_classes=None, workers=0, push=None
    ):
        self.scheduler, self.num_classes, self.push = scheduler, num_classes, push
        objective = make_objective(args.objective, scheduler, args.vlb_weight, args.min_snr_gamma, accelerator.device)
        # A head is to learn the errors of the prediction as it is when sampling: without dropout.
        unet = freeze_all_but_head(unet).eval() if args.train_head_only else unet.train()
        num_train_timesteps = scheduler.config.num_train_timesteps
        super().__init__(args, accelerator, unet, objective, num_train_timesteps, images, total_steps, workers)

    def labels_to_learn(self, batch):
        labels = super().labels_to_learn(batch)
        return None if labels is None else drop_labels(labels, self.args.label_dropout, self.num_classes)

    def between_updates(self):
        if self.is_due(self.args.sample_every):
            self.sample()
        super().between_updates()
        is_saved = self.is_due(self.args.sample_every) or self.is_due(self.args.checkpoint_every)
        # While one push is going on, the saves are not pushed: the next one after it is.
        if is_saved and self.push is not None and not self.push.is_busy:
            with self.clock_stopped():
                self.start_push()

    def save_pipeline(self, folder):
        """The averaged weights, as a pipeline folder."""
        with self.averaged_model() as unet:
            GaussianDiffusionPipeline(unet=unet, scheduler=self.scheduler).save_pretrained(folder)

    def start_push(self):
        """Uploads the model as it is now, from a folder of its own, with the latest samples."""
        folder = self.folder / PUSHED_FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        self.save_pipeline(folder)
        grids = sorted((self.folder / "samples").glob("*.png"))[-1:]
        for file in (self.folder / ARGUMENTS_FILE, self.folder / "loss.csv", *grids):
            if file.exists():
                copy = folder / file.relative_to(self.folder)
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, copy)
        card = card_of(folder, self.push.target.repository, self.args.hub_license)
        files = files_to_share(folder) | {CARD_FILE: card.encode()}
        self.push.start(files, f"Step {self.progress.step} of {self.total_steps}", self.folder)

    def sample(self):
        """Writes a grid of samples of the averaged weights, and shows it to the trackers."""
        with self.clock_stopped():
            if self.accelerator.is_main_process:
                with self.averaged_model() as unet:
                    grid = sample_grid(
                        unet,
                        self.scheduler,
                        self.args.num_samples,
                        self.args.sample_steps,
                        self.args.seed,
                        self.num_classes,
                    )
                path = self.folder / "samples" / f"step-{self.progress.step:06d}.png"
                path.parent.mkdir(exist_ok=True)
                grid.save(path)
                self._track_image(grid)
            self.accelerator.wait_for_everyone()

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
