"""Trains a classifier of noisy images, which guides a diffusion model to classes that it may not have.

    accelerate launch training/train_classifier.py --model MODEL --output_dir OUT --max_train_steps 2000
    accelerate launch -m ddpm_hf.training.train_classifier --model MODEL --dataset my_labelled_images --num_epochs 20

The result is a pipeline folder with the unchanged model and the classifier's averaged weights (Dhariwal & Nichol 2021,
section 4). The same command again continues an interrupted run.
"""

import math
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from accelerate.utils import set_seed

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler, NoisyImageClassifier
from ddpm_hf.data import ImageSource, draw_images, open_images, sized_for_network
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.distributed import leave_processes, main_process_first, main_process_in, together
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.discrete_chains import discrete_chain
from ddpm_hf.files import moved_in_whole
from ddpm_hf.folder_lock import alone_in
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.models.class_names import id2label_of
from ddpm_hf.reports.loss_curve import draw_loss_curve
from ddpm_hf.reports.report_files import ACCURACY
from ddpm_hf.samples.kind import channels_of
from ddpm_hf.sizes import config_size, sides_of_size
from ddpm_hf.training.classifier_accuracy import accuracy_by_quarter, accuracy_report, accuracy_table
from ddpm_hf.training.classifier_arguments import NORM_NUM_GROUPS, ClassifierArguments
from ddpm_hf.training.classifier_objective import make_classifier_objective
from ddpm_hf.training.earlier_options import with_earlier_precision
from ddpm_hf.training.health import check_weights
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
from ddpm_hf.training.training_loop import Task, TrainingLoop

# Levels halve the image until its side is at most the first, and attend where it is at most the second: the
# resolutions of the paper, from 16x16 on.
LAST_SIDE, ATTENTION_SIDE = 8, 16


@stopped_by_signals
def train_classifier(args):
    """Trains, or continues, the run that `args` (`ClassifierArguments`) describes.

    Returns:
        `Path`: the output folder, which `GaussianDiffusionPipeline.from_pretrained` loads; the classifier alone is in
        its folder `classifier`.

    Raises:
        InputError: if the run is impossible as described, before anything is written or takes long; or if the disk
            fails or is full, and then the newest checkpoint stays.
        Interrupted: if a signal asked to stop: SIGINT, SIGTERM or SIGUSR1.
    """
    args = with_earlier_precision(args)
    accelerator = make_accelerator(args)
    check_run_folder(args, accelerator.num_processes)
    opened = main_process_first(accelerator, lambda: open_all(args))
    check_classes(opened.source, opened.held_out, args)
    total_steps = steps_to_do(args, accelerator, len(opened.source))
    if total_steps is not None:
        make_network = partial(make_classifier, args, opened.source)
        args, accelerator = settle_precision(
            args,
            accelerator,
            lambda args: tried_task(args, accelerator, opened.source, make_network, task_of(opened)),
        )
        run(args, accelerator, opened, total_steps)
    return Path(args.output_dir)


class Opened(NamedTuple):
    """The diffusion model, the scheduler that makes the noisy images, and the images to learn and to measure with."""

    pipeline: GaussianDiffusionPipeline
    scheduler: GaussianDiffusionScheduler
    source: ImageSource
    held_out: ImageSource


def open_all(args):
    pipeline = load_pipeline(args.model, latents=False)
    scheduler = noising_scheduler(pipeline, args.model)
    splits = dict.fromkeys((args.split, args.eval_split))
    opened = {split: open_labelled_images(args, split, pipeline.unet.config) for split in splits}
    return Opened(pipeline, scheduler, opened[args.split], opened[args.eval_split])


def run(args, accelerator, opened, total_steps):
    source = opened.source
    set_seed(args.seed)  # gives the same initial weights in every process
    classifier = make_classifier(args, source)
    pipeline = with_classifier(opened.pipeline, classifier, args.model)
    note_resizing(accelerator, source)
    with main_process_in(alone_in(args.output_dir), accelerator):
        images = begin_run(args, accelerator, source, classifier)
        loop = TrainingLoop(args, accelerator, classifier.train(), task_of(opened), images, total_steps)
        accelerator.print(describe_run(classifier, source, images, total_steps, accelerator.device))
        resume_run(args, accelerator, source, loop)
        loop.fit()
        finish(loop, pipeline, opened.scheduler, opened.held_out)
    leave_processes(accelerator)


def task_of(opened):
    """The [`Task`] of a classifier for an opened model."""
    return Task(make_classifier_objective(opened.scheduler), opened.scheduler.config.num_train_timesteps)


def finish(loop, pipeline, scheduler, held_out):
    """Writes accuracy, curve and pipeline, and finally the mark of a finished run."""
    with loop.averaged_model() as classifier:
        write = partial(write_result, loop, classifier, pipeline, scheduler, held_out)
        together(loop.accelerator, write, main_process_only=True)


def write_result(loop, classifier, pipeline, scheduler, held_out):
    check_weights(classifier.parameters(), f"after update {loop.progress.step}")
    draw_loss_curve(loop.folder)
    report = measure(loop.args, classifier, scheduler, held_out)
    pipeline.register_modules(classifier=classifier)
    with moved_in_whole(loop.folder, last=pipeline.config_name) as aside:
        pipeline.save_pretrained(aside)
    ACCURACY.write(loop.folder, report)
    print(accuracy_table(report))
    mark_finished(loop.folder, loop.total_steps)


def measure(args, classifier, scheduler, held_out):
    tensors = draw_images(held_out, args.num_eval_images, args.seed).decode(args.dataloader_workers)
    images, labels = tensors["images"], tensors["labels"]
    quarters = accuracy_by_quarter(classifier, scheduler, images, labels, args.batch_size, args.seed)
    return accuracy_report(quarters, labels, args.eval_split)


def make_classifier(args, source):
    """The network for the size, channels and classes of the data."""
    sides = [max(sides_of_size(source.resolution))]
    while sides[-1] > LAST_SIDE:
        sides.append(math.ceil(sides[-1] / 2))
    return NoisyImageClassifier(
        sample_size=config_size(source.resolution),
        in_channels=source.channels,
        num_classes=source.num_classes,
        block_out_channels=tuple(args.width * min(level, 4) for level in range(1, len(sides) + 1)),
        down_block_types=tuple("AttnDownBlock2D" if side <= ATTENTION_SIDE else "DownBlock2D" for side in sides),
        layers_per_block=args.layers_per_block,
        attention_head_dim=math.gcd(args.width, 64),
        norm_num_groups=NORM_NUM_GROUPS,
        dropout=args.dropout,
        id2label=id2label_of(source.class_names),
    )


def with_classifier(pipeline, classifier, model):
    try:
        return GaussianDiffusionPipeline(pipeline.unet, pipeline.scheduler, classifier)
    except ValueError as error:
        raise InputError(f"The labels of the data are not those of model={model!r}: {error}") from error


# Before the work -----------------------------------------------------------------------------------------------------


def noising_scheduler(pipeline, model):
    try:
        return discrete_chain(pipeline.scheduler, "make the noisy images that a classifier learns from")
    except ValueError as error:
        raise InputError(f"model={model!r} is not one to train a classifier for: {error}") from error


def open_labelled_images(args, split, unet_config):
    sized = sized_for_network(DataArguments.among(args, split=split), unet_config, f"model={args.model!r}")
    if sized.resolution is None:
        raise InputError(
            f"model={args.model!r} has a network for images of any size, and a classifier is for one: give a model "
            "whose network says its sample_size."
        )
    source = open_images(sized, None, unet_config)
    if source.channels != channels_of(unet_config):
        raise InputError(
            f"The images of split {split!r} have {source.channels} channel(s), and those of model={args.model!r} "
            f"{channels_of(unet_config)}: give images of the kind that the model was trained on."
        )
    return source


def check_classes(source, held_out, args):
    present = np.unique(source.labels)
    if len(present) == 1:
        raise InputError(
            f"All {len(source)} images of split {args.split!r} have the label {present[0]}: a classifier needs two "
            "classes at least. Give other data, or another --label_column."
        )
    if held_out.num_classes > source.num_classes:
        raise InputError(
            f"Split {args.eval_split!r} has {held_out.num_classes} classes, and split {args.split!r}, which is "
            f"learned, {source.num_classes}: give another --eval_split."
        )


PROGRAM = Program("train_classifier", train_classifier, ClassifierArguments)
main, run_program = PROGRAM.main, PROGRAM.run

if __name__ == "__main__":
    main()
