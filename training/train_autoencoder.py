"""Trains an autoencoder, in whose latents a diffusion model can then be trained (Rombach et al. 2022).

    accelerate launch training/train_autoencoder.py --preset fashion_mnist
    ddpm-hf train_autoencoder my_images --num_epochs 20

The result is a folder that `AutoencoderKL.from_pretrained` loads, with the averaged weights and the units of the
latents. The same command again continues an interrupted run.
"""

from functools import partial
from pathlib import Path

from accelerate.utils import set_seed

from ddpm_hf.data import draw_images, open_images, to_model_range
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.source import ImageSource
from ddpm_hf.distributed import leave_processes, main_process_first, main_process_in, together
from ddpm_hf.errors import InputError
from ddpm_hf.files import moved_in_whole, written_whole
from ddpm_hf.folder_lock import alone_in
from ddpm_hf.hub.cards import write_card
from ddpm_hf.hub.model_files import CONFIG_FILE
from ddpm_hf.models.autoencoders import autoencoder_config, check_sides, chosen_preset
from ddpm_hf.reports.loss_curve import draw_loss_curve
from ddpm_hf.reports.report_files import AUTOENCODER
from ddpm_hf.samples import kind_of_batch
from ddpm_hf.sizes import config_size, size_of
from ddpm_hf.training.adversary import Adversary, check_discriminator
from ddpm_hf.training.autoencoder_arguments import AutoencoderArguments
from ddpm_hf.training.autoencoder_measures import comparison_grid, psnr, reconstructions, with_units
from ddpm_hf.training.autoencoder_objective import AutoencoderObjective, LearningAutoencoder
from ddpm_hf.training.earlier_options import with_earlier_precision
from ddpm_hf.training.health import check_weights
from ddpm_hf.training.perceptual_distance import open_perceptual_distance
from ddpm_hf.training.precision_choice import settle_precision, tried_task
from ddpm_hf.training.program import Program, stopped_by_signals
from ddpm_hf.training.run_folder import check_run_folder, mark_finished
from ddpm_hf.training.run_setup import (
    begin_run,
    describe_run,
    make_accelerator,
    note_resizing,
    resume_run,
    steps_to_do,
)
from ddpm_hf.training.sample_measures import HeldOutDistance
from ddpm_hf.training.training_loop import Task, TrainingLoop

# Images of several sizes are brought to this side, unless a resolution is given.
DEFAULT_SIDE = 64


@stopped_by_signals
def train_autoencoder(args):
    """Trains, or continues, the run that `args` (`AutoencoderArguments`) describes.

    Returns:
        `Path`: the output folder, which `AutoencoderKL.from_pretrained` loads.

    Raises:
        InputError: if the run is impossible as described, before anything is written or takes long; or if the disk
            fails or is full, and then the newest checkpoint stays.
        Interrupted: if a signal asked to stop: SIGINT, SIGTERM or SIGUSR1.
    """
    args = with_earlier_precision(args)
    accelerator = make_accelerator(args)
    check_run_folder(args, accelerator.num_processes)
    source, held_out = main_process_first(accelerator, lambda: open_all(args))
    config = network_config_for(args, source)
    total_steps = steps_to_do(args, accelerator, len(source))
    if total_steps is not None:
        check_discriminator(args, source.form.sides, total_steps)
        make_network, task = partial(LearningAutoencoder, **config), Task(reconstruction_objective(args), 1)
        args, accelerator = settle_precision(
            args, accelerator, lambda args: tried_task(args, accelerator, source, make_network, task)
        )
        run(args, accelerator, (source, held_out), config, total_steps)
    return Path(args.output_dir)


def open_all(args):
    """The images to learn from, and those that are reconstructed and measured, in the same size."""
    source = open_images(DataArguments.among(args), DEFAULT_SIDE)
    if not isinstance(source, ImageSource) or source.form.depth is not None:
        raise InputError(
            f"dataset={args.dataset!r} has arrays, or images of another depth, and an autoencoder is for images of 8 "
            "bits: give images, and --no_preserve_input_precision to read those of 16 bits in 8."
        )
    if args.eval_split == args.split:
        return source, source
    resolution = size_of(*source.form.sides)
    held_out = open_images(DataArguments.among(args, split=args.eval_split, resolution=resolution), None)
    if held_out.channels != source.channels:
        raise InputError(
            f"The images of split {args.eval_split!r} have {held_out.channels} channel(s), and those of split "
            f"{args.split!r} {source.channels}: give another --eval_split."
        )
    return source, held_out


def network_config_for(args, source):
    """The keyword arguments of the network for the size and channels of the data."""
    sides = source.form.sides
    name = args.autoencoder or chosen_preset(sides)
    config = autoencoder_config(name)
    check_sides(config, sides, f"autoencoder={name!r}")
    return config | {
        "in_channels": source.channels,
        "out_channels": source.channels,
        "sample_size": config_size(source.resolution),
        "latent_channels": args.latent_channels or config.get("latent_channels", 4),
    }


def run(args, accelerator, sources, config, total_steps):
    source, held_out = sources
    set_seed(args.seed)  # gives the same initial weights in every process
    network = LearningAutoencoder(**config)
    note_resizing(accelerator, source)
    objective = objective_for(args, accelerator, network, source)
    with main_process_in(alone_in(args.output_dir), accelerator):
        images = begin_run(args, accelerator, source, network)
        loop = AutoencoderTrainer(args, accelerator, network, objective, images, total_steps)
        loop.held_out = draw_images(held_out, args.num_eval_images, args.seed).decode(args.dataloader_workers)
        if args.eval_features is not None:
            loop.distance = HeldOutDistance(args, loop.held_out, accelerator)
        accelerator.print(describe_run(network, source, images, total_steps, accelerator.device))
        resume_run(args, accelerator, source, loop)
        loop.fit()
        with loop.averaged_model() as averaged:
            together(accelerator, partial(write_result, loop, averaged), main_process_only=True)
    leave_processes(accelerator)


def objective_for(args, accelerator, network, source):
    """The [`AutoencoderObjective`] of a run, with the networks that judge its reconstructions."""
    sides, perceptual, adversary = source.form.sides, None, None
    if args.perceptual_network is not None:
        open_it = partial(open_perceptual_distance, args.perceptual_network, source.channels, sides)
        perceptual = main_process_first(accelerator, open_it).to(accelerator.device)
    if args.discriminator_weight:
        adversary = Adversary(args, accelerator, network, sides)
    return reconstruction_objective(
        args, perceptual=perceptual, perceptual_weight=args.perceptual_weight, adversary=adversary
    )


def reconstruction_objective(args, **judges):
    """The [`AutoencoderObjective`] of the options, with the networks that judge reconstructions besides."""
    return AutoencoderObjective(args.reconstruction, args.kl_weight, **judges)


class AutoencoderTrainer(TrainingLoop):
    """Trains a [`LearningAutoencoder`]; the result is the averaged weights.

    Args:
        args .. total_steps: as in [`TrainingLoop`], the objective an [`AutoencoderObjective`].

    Attributes:
        held_out: `{"images": (N, C, H, W), uint8}`, which are reconstructed.
        distance (`HeldOutDistance`, *optional*): compares them with their reconstructions.
    """

    held_out = distance = None

    def __init__(self, args, accelerator, network, objective, images, total_steps):
        task = Task(objective, 1, objective.names_of_terms)
        super().__init__(args, accelerator, network.train(), task, images, total_steps)
        if objective.adversary is not None:
            self.own_parts["discriminator"] = objective.adversary

    def learn(self, batch, place):
        super().learn(batch, place)
        self.statistics.add_terms(self.objective.terms)
        if self.objective.adversary is not None and self.accelerator.sync_gradients:
            self.objective.adversary.finish_update(self.lr_scheduler.get_last_lr()[0])

    def between_updates(self):
        if self.is_due(self.args.sample_every):
            self.sample()

    def sample(self):
        """Writes a grid of held-out images with their reconstructions by the averaged weights."""
        with self.clock_stopped(), self.averaged_model() as network:
            if self.accelerator.is_main_process:
                self.write_grid(network.stock(), self.folder / "samples" / f"step-{self.progress.step:06d}.png")

    def write_grid(self, vae, file):
        images = to_model_range(self.held_out["images"][: self.args.num_samples])
        with written_whole(file) as aside:
            comparison_grid(images, reconstructions(vae, images, self.args.batch_size)).save(aside)


def write_result(loop, averaged):
    """Writes the stock autoencoder, its reconstructions, PSNR, curve and card, and the mark of a finished run."""
    step, batch_size = loop.progress.step, loop.args.batch_size
    check_weights(averaged.parameters(), f"after update {step}")
    draw_loss_curve(loop.folder)
    vae = with_units(averaged.stock(), loop.images, batch_size)
    report = measure(loop, vae)
    with moved_in_whole(loop.folder, last=CONFIG_FILE) as aside:
        vae.save_pretrained(aside)
    AUTOENCODER.write(loop.folder, report)
    loop.write_grid(vae, loop.folder / AUTOENCODER.picture)
    write_card(loop.folder, loop.folder.resolve().name)
    print(
        f"The autoencoder is in {loop.folder}: PSNR {report['psnr']:.2f} dB on {report['num_images']} images, "
        f"scaling_factor {report['scaling_factor']:.4f}. Next: ddpm-hf train DATA --vae {loop.folder}"
    )
    mark_finished(loop.folder, loop.total_steps)


def measure(loop, vae):
    """The values of `autoencoder.json`: what is measured of the reconstructions of the held-out images."""
    images = to_model_range(loop.held_out["images"])
    reconstructed = reconstructions(vae, images, loop.args.batch_size)
    ratios = psnr(images, reconstructed)
    report = {
        "psnr": round(ratios.mean().item(), 3),
        "standard_error": round(ratios.std(correction=0).item() / len(ratios) ** 0.5, 3),
        "num_images": len(ratios),
        "split": loop.args.eval_split,
        "scaling_factor": vae.config.scaling_factor,
    }
    if loop.distance is None:
        return report
    pictures = kind_of_batch(reconstructed).to_output(reconstructed, "pil")
    distance = {"frechet_distance": loop.distance.measure(pictures), "features": loop.args.eval_features}
    return report | distance


PROGRAM = Program("train_autoencoder", train_autoencoder, AutoencoderArguments)
main, run_program = PROGRAM.main, PROGRAM.run

if __name__ == "__main__":
    main()
