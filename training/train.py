"""Trains a denoising diffusion model on any `datasets` data set.

    accelerate launch training/train.py --preset fashion_mnist
    accelerate launch -m ddpm_hf.training.train my_images
    accelerate launch -m ddpm_hf.training.train my_images --unet images_64 --num_epochs 100

The result is a pipeline folder with the averaged weights. The same command again continues an interrupted run.
"""

import shutil
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from accelerate.utils import set_seed
from diffusers import DiffusionPipeline

from ddpm_hf import DDPMUNet2DModel, EDMScheduler, GaussianDiffusionScheduler, ScoreSDEScheduler
from ddpm_hf.data import count_images, data_for, in_buckets, open_images, sized_for_network
from ddpm_hf.data.for_network import data_of
from ddpm_hf.data.latents import open_latents
from ddpm_hf.distributed import leave_processes, main_process_first, main_process_in, together
from ddpm_hf.errors import InputError
from ddpm_hf.files import check_readable, moved_in_whole
from ddpm_hf.folder_lock import alone_in
from ddpm_hf.hub.background import BackgroundPush
from ddpm_hf.hub.cards import write_card
from ddpm_hf.hub.model_folder import load_autoencoder
from ddpm_hf.hub.push import prepare_repository, push_folder
from ddpm_hf.limits import check_fits_memory
from ddpm_hf.models.batch_bytes import least_batch_bytes
from ddpm_hf.models.class_names import id2label_of
from ddpm_hf.models.named_networks import network_config
from ddpm_hf.models.presets import NETWORK_PRESETS
from ddpm_hf.pipelines.portable_pipeline import OWN_NETWORKS
from ddpm_hf.reports.loss_curve import LOSS_FILE, draw_loss_curve
from ddpm_hf.samples import kind_of
from ddpm_hf.samples.kind import channels_of
from ddpm_hf.sizes import config_size
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.batch_size import with_fitting_batch
from ddpm_hf.training.compiled_gradients import check_compiled_gradients
from ddpm_hf.training.conditions import check_condition_kept, network_options
from ddpm_hf.training.dry_run import describe_plan
from ddpm_hf.training.earlier_options import RATE, updates_per_minute, with_earlier_options
from ddpm_hf.training.health import check_weights
from ddpm_hf.training.held_out import load_held_out
from ddpm_hf.training.neighbour_sheets import TrainingNeighbours
from ddpm_hf.training.network_choice import with_chosen_network
from ddpm_hf.training.precision_choice import settle_precision, tried_diffusion
from ddpm_hf.training.program import Program, stopped_by_signals
from ddpm_hf.training.resuming import SHARDING
from ddpm_hf.training.run_folder import check_run_folder, mark_finished
from ddpm_hf.training.run_length import DEFAULT_MINUTES, measure_updates_per_minute, with_length, with_warmup
from ddpm_hf.training.run_setup import (
    begin_run,
    in_updates,
    make_accelerator,
    note_resizing,
    resume_run,
    steps_to_do,
)
from ddpm_hf.training.sample_measures import HeldOutDistance
from ddpm_hf.training.summaries import closing, describe_choice, describe_length, opening
from ddpm_hf.training.text_network import make_captioned_network
from ddpm_hf.training.text_trainer import TextTrainer
from ddpm_hf.training.trainer import PUSHED_FOLDER, Trainer

# The options of the scheduler that define the network's training task.
PROCESS = (
    *("num_train_timesteps", "beta_schedule", "beta_start", "beta_end"),
    *("prediction_type", "rescale_betas_zero_snr"),
)


@stopped_by_signals
def train(args):
    """Trains, or continues, the run that `args` (`TrainingArguments`) describes.

    Returns:
        `Path`: the output folder, which `DiffusionPipeline.from_pretrained` loads.

    Raises:
        InputError: if the run is impossible as described, before anything is written or takes long; or if the disk
            fails or is full, and then the newest checkpoint stays.
        Interrupted: if a signal asked to stop: SIGINT, SIGTERM or SIGUSR1.
    """
    args = with_earlier_options(args)
    accelerator = make_accelerator(args)
    check_run_folder(args, accelerator.num_processes)
    args, source = choose_network(args, accelerator)
    args, accelerator = settle_precision(
        args, accelerator, lambda args: tried_diffusion(args, accelerator, source, make_parts)
    )
    args, measured = settle_length(args, accelerator, source)
    total_steps = steps_to_do(args, accelerator, count_images(source))
    if total_steps is not None:
        args = with_warmup(args, total_steps)
    args = in_updates(args, count_images(source), accelerator.num_processes)
    if args.init_from is not None:
        note_resizing(accelerator, source)
    if args.dry_run:
        if total_steps is not None:
            plan(args, accelerator, source, total_steps)
        return Path(args.output_dir)
    push = begin_pushing(args, accelerator) if args.push_to_hub else None
    if total_steps is not None:
        run(args, accelerator, source, total_steps, push, measured)
    if push is not None:
        push_result(args, accelerator, push)
    return Path(args.output_dir)


def choose_network(args, accelerator):
    """The options with a network and what belongs to it, and the opened data; a choice is said, with its reasons."""
    source = main_process_first(accelerator, lambda: open_data(args))
    args, source, reason = with_chosen_network(args, source, accelerator.device)
    if args.aspect_buckets is not None:
        source = bucketed(args, source)
    check_batch(args, source)
    if reason is not None:
        accelerator.print(describe_choice(args, reason))
    return args, source


def begin_pushing(args, accelerator):
    """What pushes the run while it trains, on the main process; None on the others."""
    name = args.hub_model_id or Path(args.output_dir).resolve().name
    prepare = partial(prepare_repository, name, args.hub_private or None)
    target = together(accelerator, prepare, main_process_only=True)
    return BackgroundPush(target) if accelerator.is_main_process else None


def push_result(args, accelerator, push):
    """Pushes the folder of a finished run, after all that `push` has begun."""
    push.wait()
    folder, target = Path(args.output_dir), push.target
    shutil.rmtree(folder / PUSHED_FOLDER, ignore_errors=True)
    options = {"private": target.private, "license": args.hub_license, "message": "Add the trained model"}
    pushed = push_folder(folder, target.repository, **options)
    accelerator.print(f"Uploaded: {pushed.url}")


def open_data(args):
    """Opens data in the size and units of the network of `init_from`; a new network gets those of the data."""
    if args.vae is not None:
        return open_in_latents(args)
    if args.init_from is not None:
        config, model = _load_config(args.init_from), f"init_from={args.init_from!r}"
        if kind_of(config).needs_vae:
            raise InputError(f"The network of {model} was trained in latents: give --vae, the autoencoder of these.")
        return data_for(config).open_for_network(args, config, model, args.streaming)
    return _open_for_new_network(args)


def _open_for_new_network(args):
    if args.unet is None:
        return data_of(args).open_for_choice(args, args.streaming)
    config = network_config(args.unet)
    if args.unet in NETWORK_PRESETS:
        return data_for(config).open_for_preset(args, config, args.streaming)
    return data_for(config).open_for_config(args, config, f"unet={args.unet!r}", args.streaming)


def open_in_latents(args):
    """Opens images to be encoded, in the size of the network of `init_from`, else in that of `open_images`.

    Raises:
        InputError: for an autoencoder that cannot be had, or does not fit the images or the network.
    """
    vae = load_autoencoder(args.vae)
    if args.init_from is None:
        images = open_images(args, vae.config.sample_size if isinstance(vae.config.sample_size, int) else None)
        return open_latents(images, vae, args.vae, args.random_flip)
    config, model = _load_config(args.init_from), f"init_from={args.init_from!r}"
    if not kind_of(config).needs_vae:
        raise InputError(f"The network of {model} was not trained in latents: leave out --vae {args.vae}.")
    source = open_latents(open_images(sized_for_network(args, config, model), None), vae, args.vae, args.random_flip)
    with _refused_as_input(f"vae={args.vae!r} does not go with {model}"):
        kind_of(config).decoded_by(vae)
    return source


def check_batch(args, source):
    """Raises InputError for a batch that the data or this machine's memory do not allow."""
    source.check_batch_fits(args.batch_size)
    if args.find_batch_size:
        return
    check_fits_memory(
        f"batch_size={args.batch_size}: a batch takes at least",
        least_batch_bytes({**_config_of_network(args), **source.largest.network_options}, args.batch_size),
        "choose a smaller --batch_size with more --gradient_accumulation_steps, or give --find_batch_size",
    )


def bucketed(args, source):
    """The opened images in buckets by aspect ratio, in shapes that the network can halve."""
    config = _config_of_network(args)
    if config.get("_class_name", "UNet2DModel") not in ("UNet2DModel", "DDPMUNet2DModel"):
        raise InputError(
            f"aspect_buckets={args.aspect_buckets} are for a UNet2DModel, and the network of "
            f"init_from={args.init_from!r} is a {config['_class_name']}: leave it out."
        )
    return in_buckets(source, args.aspect_buckets, config)


def _config_of_network(args):
    return network_config(args.unet) if args.init_from is None else _load_config(args.init_from)


def settle_length(args, accelerator, source):
    """The options with a number of updates or of passes over the data, and what was measured for that.

    Returns:
        `TrainingArguments`, and a `dict` with the updates per minute, if they are known.
    """
    rate = updates_per_minute(args.output_dir)
    if args.has_no_length or args.minutes is not None:
        minutes = args.minutes or DEFAULT_MINUTES
        tried, unet, scheduler = make_parts(args, accelerator, source)
        rate = measure_updates_per_minute(tried, accelerator, unet, scheduler, source)
        args = with_length(args, rate)
        accelerator.print(describe_length(args, minutes, rate))
    return args, {} if rate is None else {RATE: rate}


def _load_config(name):
    try:
        config = DDPMUNet2DModel.load_config(name, subfolder="unet")
    except OSError as error:
        check_readable(Path(name) / "unet")
        raise InputError(f"Cannot load a network from init_from={name!r}: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"Cannot load a network from init_from={name!r}: its unet/config.json holds no options.")
    return config


def run(args, accelerator, source, total_steps, push=None, measured=None):
    begun = time.perf_counter()
    set_seed(args.seed)  # gives the same initial weights in every process
    args, unet, scheduler = make_parts(args, accelerator, source)
    held_out = load_held_out(args, source, accelerator) if args.eval_every else None
    distance = HeldOutDistance(args, held_out, accelerator) if args.eval_features else None
    with main_process_in(alone_in(args.output_dir), accelerator):
        if source.vae is not None:
            source.vae.to(accelerator.device)
        images = begin_run(args, accelerator, source, unet, measured)
        kind = Trainer if source.captions is None else TextTrainer
        trainer = kind(args, accelerator, unet, scheduler, images, total_steps)
        trainer.captions = source.captions
        trainer.push, trainer.held_out, trainer.distance, trainer.vae = push, held_out, distance, source.vae
        if args.sample_neighbours:
            search = partial(TrainingNeighbours, images, trainer.kind.channels)
            trainer.neighbours = together(accelerator, search, main_process_only=True)
        resume_run(args, accelerator, source, trainer, measured)
        accelerator.print(opening(trainer, unet, source, (measured or {}).get(RATE)))
        trainer.fit()
        finish(trainer, push.target.repository if push is not None else trainer.folder.resolve().name)
        seconds = time.perf_counter() - begun
        accelerator.print(closing(args, trainer.folder, total_steps, seconds, unet.config))
    leave_processes(accelerator)


def make_parts(args, accelerator, source):
    """The options with a batch that fits, the network and the scheduler, of which it is known that they train."""
    if source.captions is not None and accelerator.distributed_type in SHARDING:
        raise InputError("Captions are not trained with FSDP or DeepSpeed: launch the training without an engine.")
    unet = make_unet(args, source)
    if args.process == "ddpm":
        scheduler = make_scheduler(args, **source.scheduler_options)
    else:
        scheduler = make_continuous_scheduler(args, unet)
    if args.find_batch_size:
        args = with_fitting_batch(args, accelerator, unet, scheduler, source)
    together(accelerator, lambda: check_compiled_gradients(args, accelerator, unet, scheduler, source))
    return args, unet, scheduler


def plan(args, accelerator, source, total_steps):
    """Prints what `run` would do, without doing it."""
    args, unet, scheduler = make_parts(args, accelerator, source)
    accelerator.print(describe_plan(args, accelerator, unet, scheduler, source, total_steps))


def finish(trainer, repository):
    """Writes samples, bits per dimension, curve, pipeline and card, and finally the mark of a finished run."""
    trainer.sample()
    if trainer.held_out is not None:
        trainer.evaluate()
    with trainer.averaged_model() as unet:
        together(trainer.accelerator, lambda: write_result(trainer, unet, repository), main_process_only=True)


def write_result(trainer, unet, repository):
    check_weights(unet.parameters(), f"after update {trainer.progress.step}")
    if (trainer.folder / LOSS_FILE).exists():
        draw_loss_curve(trainer.folder)
    with moved_in_whole(trainer.folder, last=DiffusionPipeline.config_name) as aside:
        trainer.save_pipeline(unet, aside)
    write_card(trainer.folder, repository, trainer.args.hub_license)
    mark_finished(trainer.folder, trainer.total_steps)


def make_unet(args, source):
    """The network of a preset or of `init_from`, for the channels, size and classes of the data."""
    if source.captions is not None:
        # Importing the encoders of transformers takes seconds.
        from ddpm_hf.training.text_encoders import open_text_parts

        return make_captioned_network(args, source, open_text_parts(args.text_encoder, source.captions))
    if args.init_from is not None:
        return _load_unet(args, source)
    options = {"num_classes": source.num_classes, "variance_head": args.variance_head, **source.network_options}
    options |= network_options(args, source)
    if args.process == "ve" and source.network_class is DDPMUNet2DModel:
        options["time_embedding_type"] = "fourier"
    if source.class_names is not None:
        options["id2label"] = id2label_of(source.class_names)
    try:
        return source.network_class.from_config(dict(network_config(args.unet)), **options)
    except (ValueError, TypeError) as error:
        raise InputError(f"unet={args.unet!r} does not suit the data: {error}") from error


def _load_unet(args, source):
    network_class = OWN_NETWORKS.get(_load_config(args.init_from).get("_class_name"), source.network_class)
    try:
        unet = network_class.from_pretrained(args.init_from, subfolder="unet")
    except (OSError, ValueError) as error:
        check_readable(Path(args.init_from) / "unet")
        raise InputError(f"Cannot load a network from init_from={args.init_from!r}: {error}") from error
    if unet.config.get("sample_size", ()) is None:  # the network takes any size, but samples need one
        unet.register_to_config(sample_size=config_size(source.resolution))
    if args.aspect_buckets is not None:
        unet.register_to_config(**{name: source.network_options[name] for name in ("sample_size", "aspect_buckets")})
    added = {}
    if args.variance_head is not None and unet.config.get("variance_head") is None:
        added["variance_head"] = args.variance_head
    if source.num_classes is not None and getattr(unet, "class_embedding", None) is None and not args.train_head_only:
        added["num_classes"] = source.num_classes
    if added and not hasattr(unet, "from_unet"):
        raise InputError(
            f"The network of init_from={args.init_from!r} is a {type(unet).__name__}, which takes no "
            f"{' and no '.join(added)}: train it without."
        )
    if added:
        unet = type(unet).from_unet(unet, **added)
    if channels_of(unet.config) != source.channels:
        raise InputError(
            f"The network of init_from={args.init_from!r} makes images of {channels_of(unet.config)} channel(s), and "
            f"the data have {source.channels}."
        )
    check_condition_kept(args, unet, source)
    wanted = {
        "num_classes": source.num_classes,
        "variance_head": args.variance_head,
    }
    for name, value in wanted.items():
        if unet.config.get(name) != value:
            raise InputError(
                f"The network of init_from={args.init_from!r} has {name}={unet.config.get(name)}, but the data and "
                f"options ask for {value}."
            )
    if source.class_names is not None:
        unet.register_to_config(id2label=id2label_of(source.class_names))
    return unet


def make_scheduler(args, **options):
    """The scheduler that `args` describe, with the options that the data require.

    Raises:
        InputError: if the options describe no process, or its samples cannot be drawn in `sample_steps`.
    """
    values = {name: getattr(args, name) for name in (*PROCESS, "variance_type")}
    with _refused_as_input("These options make no diffusion process"):
        scheduler = GaussianDiffusionScheduler(**values, **options)
    if args.train_head_only:
        scheduler = _scheduler_of_prediction(scheduler, args)
    with _refused_as_input(f"No samples can be drawn while training with sample_steps={args.sample_steps}"):
        scheduler.from_config(scheduler.config).set_timesteps(args.sample_steps)
    return scheduler


def make_continuous_scheduler(args, unet):
    """The scheduler of a process in continuous time that `args` describe, for what the network is given as time.

    Raises:
        InputError: if the options describe no process, or its samples cannot be drawn in `sample_steps`.
    """
    options = {} if args.sigma_max is None else {"sigma_max": args.sigma_max}
    with _refused_as_input("These options make no diffusion process"):
        if args.process == "edm":
            sigma_data = args.sigma_data or kind_of(unet.config).usual_std
            scheduler = EDMScheduler(args.num_train_timesteps, sigma_data=sigma_data, **options)
        else:
            reads_sigma = unet.config.get("time_embedding_type") == "fourier"
            scheduler = ScoreSDEScheduler(
                args.process,
                args.num_train_timesteps,
                corrector="langevin" if args.process == "ve" else "none",
                prediction_type="score" if reads_sigma else args.prediction_type,
                time_input="sigma" if reads_sigma else "timestep",
                # Networks with Fourier features are of score-SDE repositories, whose data are in [0, 1].
                centered=not reads_sigma,
                **options,
            )
    with _refused_as_input(f"No samples can be drawn while training with sample_steps={args.sample_steps}"):
        scheduler.from_config(scheduler.config).set_timesteps(args.sample_steps)
    return scheduler


@contextmanager
def _refused_as_input(what):
    try:
        yield
    except ValueError as error:
        raise InputError(f"{what}: {error}") from error


def _scheduler_of_prediction(scheduler, args):
    """The scheduler of `init_from`, because a head learns the errors of a prediction in the process of its training.

    Clipping, noise statistics and plans of the model stay too.
    """
    try:
        trained = GaussianDiffusionScheduler.from_pretrained(args.init_from, subfolder="scheduler")
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot load the scheduler of init_from={args.init_from!r}: {error}") from error
    differences = [
        f"{n}={trained.config[n]} instead of {scheduler.config[n]}"
        for n in PROCESS
        if trained.config[n] != scheduler.config[n]
    ]
    if differences:
        raise InputError(
            f"train_head_only keeps the prediction of init_from={args.init_from!r}, which was trained with "
            f"{'; '.join(differences)}: give the options of its training."
        )
    return trained.from_config(trained.config, variance_type=args.variance_type)


PROGRAM = Program("train", train, TrainingArguments, ", which --find_batch_size does for you")
main, run_program = PROGRAM.main, PROGRAM.run

if __name__ == "__main__":
    main()
