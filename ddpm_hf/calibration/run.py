"""`ddpm-hf calibrate`: a pipeline folder and a data set in, a new pipeline folder that samples better out."""

import time
from dataclasses import asdict
from functools import partial
from math import ceil

import torch

from ddpm_hf.calibration.mean_square_epsilon import (
    PLAIN_CHAIN,
    TIMESTEPS_PER_IMAGE,
    estimate_mean_square_epsilon,
)
from ddpm_hf.calibration.model_plans import calls_for_candidate, check_plans, count_candidates, make_plans
from ddpm_hf.calibration.models import load_for_measuring
from ddpm_hf.calibration.new_folder import Told, alone_in_new_folder, output_folder, write_folder
from ddpm_hf.calibration.options import CalibrationOptions
from ddpm_hf.calibration.plots import draw_mean_square_epsilon
from ddpm_hf.calibration.progress_file import STATE_FILE
from ddpm_hf.data import to_model_range
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.distributed import join_processes, main_process_first, main_process_in
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.discrete_chains import discrete_chain
from ddpm_hf.evaluation.image_labels import labels_of
from ddpm_hf.evaluation.noised_batches import Measuring, noised_batches
from ddpm_hf.evaluation.run import load_data
from ddpm_hf.hub.push import prepare_repository
from ddpm_hf.limits import expected_duration, fitting_into_memory, seconds_of
from ddpm_hf.models.network_config import has_head
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.recipes import changes_for, with_recipe
from ddpm_hf.reports.report_files import CALIBRATION
from ddpm_hf.results import check_apart
from ddpm_hf.samples import kind_of
from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler


def calibrate(model, output_dir=None, data=None, push_to_hub=None, **options):
    """Measures Gamma_t, and timestep plans if asked for, and writes a new pipeline folder that has them.

    The weights stay what they are. The new folder's scheduler draws with the best variance of each spatial frequency
    (`with_recipe`: dct-ddpm, or dct-ddim for a model at eta = 0; for points, which have no frequencies, analytic-ddpm or
    analytic-ddim), unless the model has a variance head, which it then keeps using; with plans by local or global error it takes the deterministic steps that these were made for (ddim-2m-pc).
    Beside the model there are `calibration.json` and `calibration.png`. Everything is moved into the folder at the end, the
    index last. Called again after it was cut off, it goes on where it was.

    Runs on one process, or on all that `accelerate launch` starts (plans are made on one). A class-conditional model is
    given the labels of the data. A model of latents (`LDMPipeline`) is given what its autoencoder makes of the images, and
    stays the stock pipeline that it is; its scheduler carries what was measured.

    Args:
        model: a pipeline folder, or the id of a repository on the Hub.
        output_dir (*optional*): the new folder; empty if it is there. With `push_to_hub` alone it is outputs/ and the name of
            the repository.
        data (`DataArguments`): which images; by default the training split of the embedded Fashion-MNIST. Those that the
            model was trained on serve well.
        push_to_hub (`str`, *optional*): the id of a repository, made if it is not there, that gets the folder too.
        options: further ones by name.

            num_images (`int`, 1000): how many images are drawn at random by `seed`.
            plans (`list[int]`, none): numbers of steps K to plan timesteps for.
            plan_cost (`str`, "bound"): what plans keep low: "bound", the variational bound, for likelihood;
                "local_error", the errors of deterministic second-order steps, for samples; "global_error", what those
                errors have become in the samples, which takes 2.5 times the network calls and makes better ones.
            batch_size (`int`, 64): images at a time and process.
            seed (`int`, 0): of the noise, of the timesteps, and of the choice of images.
            device (`str`): "cpu" to leave an accelerator alone; the fastest there is by default.
            precision (`str`, "auto"): float32, for the errors of half precision would be measured as the model's.
            channels_last, compile (`str`, "auto"): "yes" or "no", as in `choose_execution`; by default no.

    Returns:
        [`GaussianDiffusionPipeline`]: what was written; for a model of latents its own pipeline.

    Raises:
        InputError: before the measurement, for an output_dir that holds something else or cannot be written to, a plan that
            cannot be made, data that do not fit, and a Hub that does not take the model.
    """
    plans = sorted({*(options.pop("plans", None) or ())})
    options = CalibrationOptions(model, data or DataArguments(), plans=plans, **options)
    return _calibrate(options, output_folder(output_dir, push_to_hub), push_to_hub)


def _calibrate(options, output_dir, push_to_hub):
    accelerator = join_processes(options.device)
    check_apart(output_dir, options.model)
    with main_process_in(alone_in_new_folder(output_dir), accelerator):
        return _calibrate_in(output_dir, options, push_to_hub, accelerator)


def _calibrate_in(output_dir, options, push_to_hub, accelerator):
    loaded = load_for_measuring(options, accelerator)
    _check_model(loaded, options)
    images, labels = main_process_first(
        accelerator, lambda: load_data(options.data, loaded.image_config, options.num_images, options.seed)
    )
    if push_to_hub is not None and accelerator.is_main_process:
        push_to_hub = prepare_repository(push_to_hub).repository
    with fitting_into_memory(f"lower --batch_size, which is {options.batch_size}"):
        duration = _duration(loaded, images, labels, options, accelerator.num_processes)
    accelerator.print(f"{len(images)} images, in float32: about {duration} (h:mm:ss)")

    started = time.monotonic()
    gamma = estimate_mean_square_epsilon(
        loaded.pipeline.unet,
        loaded.pipeline.scheduler,
        images,
        class_labels=labels,
        encode=loaded.encode,
        batch_size=options.batch_size,
        seed=options.seed,
        state_file=output_dir / STATE_FILE,
        accelerator=accelerator,
    )
    if accelerator.is_main_process:
        scheduler, made = _calibrated(loaded.pipeline, gamma, images, labels, options)
        report = {
            "options": options.told(),
            "seconds": time.monotonic() - started,
            "mean_square_epsilon": asdict(gamma),
            **({"plan_cost": options.plan_cost, "plans": made} if made else {}),
        }
        _print_summary(gamma, scheduler, made, output_dir)
        told = Told(CALIBRATION, report, partial(draw_mean_square_epsilon, gamma))
        write_folder(loaded, scheduler, [told], output_dir, push_to_hub)
    accelerator.wait_for_everyone()
    return loaded.pipeline


def _calibrated(pipeline, gamma, images, labels, options):
    """The scheduler of the new folder, and the plans that it has, as `make_plans` gives them."""
    scheduler = _calibrated_scheduler(pipeline, gamma.for_scheduler(), options.kept_low)
    made = make_plans(pipeline.unet, scheduler, images, labels, options)
    if made:
        plans = {steps: plan["timesteps"] for steps, plan in made.items()}
        scheduler = scheduler.from_config(scheduler.config, timestep_plans=plans)
    return scheduler, made


def _calibrated_scheduler(pipeline, measured, plan_cost):
    """The scheduler of the new folder, without plans; those of the old one were made for another kernel."""
    scheduler = pipeline.scheduler
    changes = changes_for(pipeline.unet.config) | measured
    if plan_cost != "bound":
        return with_recipe(scheduler, "ddim-2m-pc", **changes)
    if has_head(pipeline.unet.config):
        return GaussianDiffusionScheduler.from_config(scheduler.config, timestep_plans=None, **measured)
    family = "analytic" if measured["covariance_spectrum"] is None else "dct"
    base = "ddim" if scheduler.config.get("eta", 1.0) == 0 else "ddpm"
    return with_recipe(scheduler, f"{family}-{base}", **changes)


def _print_summary(gamma, scheduler, made, output_dir):
    values, residuals, errors = gamma.values, gamma.residuals, gamma.residual_errors
    middle = len(values) // 2
    print(
        f"From {gamma.num_images} images, {min(gamma.draws)} to {max(gamma.draws)} draws for each timestep: the network's "
        "mean square error of the noise is "
        + ", ".join(
            f"{residuals[t]:.4g} +- {errors[t]:.1g} (Gamma {values[t]:.4f})" for t in (0, middle, len(values) - 1)
        )
        + f" at t = 0, {middle}, {len(values) - 1}"
    )
    for count, plan in made.items():
        print(f"Plan of {count} steps (cost {plan['cost']:.4g}): {' '.join(map(str, plan['timesteps']))}")
    config = scheduler.config
    print(
        f"{output_dir}: the same weights, sampled with variance_type={config.variance_type!r}, eta={config.eta:g}, "
        f"solver_order={config.solver_order}; what was measured is in {CALIBRATION.name} and {CALIBRATION.picture}"
    )


# Before the work -----------------------------------------------------------------------------------------------------


def _check_model(loaded, options):
    pipeline = loaded.pipeline
    if loaded.is_told_text:
        raise InputError(
            f"{options.model} is told a text, and what is measured here is of networks without: fit solvers to it with "
            "--solver 5,10."
        )
    chain = discrete_chain(pipeline.scheduler, "be calibrated", **PLAIN_CHAIN)
    check_plans(options.plans, options.plan_cost, chain, of_latents=loaded.encode is not None)
    # Its variances depend on the statistics; whether there can be such a scheduler does not.
    measured = {"mean_square_epsilon": [1.0] * len(chain), "covariance_spectrum": None}
    _calibrated_scheduler(pipeline, measured, options.kept_low)


def _duration(loaded, images, labels, options, processes):
    """What all calls of the network will take, from one that is timed; plans take up to twice as long as their calls."""
    steps, batch_size = loaded.pipeline.scheduler.config.num_train_timesteps, options.batch_size
    batch, labels = images[:batch_size], labels_of(labels, 0, batch_size)
    seconds = _seconds_per_call(loaded, batch, labels)
    calls = ceil(len(images) / (batch_size * processes)) * min(TIMESTEPS_PER_IMAGE, steps)
    if options.plans:
        of_plans = calls_for_candidate(options.plan_cost, len(images)) * count_candidates(options.plans, steps)
        calls += 2 * of_plans / len(batch)
    return expected_duration(calls * seconds, f"give fewer --num_images than {len(images)}")


@torch.no_grad()
def _seconds_per_call(loaded, images, labels):
    """The seconds that one call of the network on a batch takes."""
    unet = loaded.pipeline.unet
    x = to_model_range(images.to(unet.device))
    x = x if loaded.encode is None else loaded.encode(x)
    x0, condition_image = kind_of(unet.config).split(x)
    pipeline = GaussianDiffusionPipeline(unet, loaded.pipeline.scheduler)
    measuring, first = Measuring(images, labels, len(images), progress_bar=False), torch.zeros(1, dtype=torch.int64)
    with noised_batches(pipeline, measuring, 1, "") as batches:
        (batch,) = batches
        return seconds_of(lambda: [noised.output.sum().item() for noised in batch.noised(x0, first, condition_image)])
