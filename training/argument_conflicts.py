"""Options of a training that conflict: for each conflict its condition and the sentence about it."""

import importlib.util
import re

from ddpm_hf.data.arguments import POINT_CLOUD_NAMES
from ddpm_hf.errors import InputError
from ddpm_hf.installation import install_extra
from ddpm_hf.models.presets import NETWORK_PRESETS, TEXT_PRESETS
from ddpm_hf.schedulers.choices import COVARIANCE_HEADS, VARIANCE_HEADS
from ddpm_hf.sizes import sides_of_size


def refuse_conflicts(args, conflicts):
    """Raises InputError for the first conflict that the options have.

    Args:
        args: the options, as a dataclass.
        conflicts: pairs of a function of the options, which says whether there is a conflict, and the sentence about
            it, in which `a` is the options.
    """
    for holds, sentence in conflicts:
        if holds(args):
            raise InputError(sentence.format(a=args))


def _has_own(args, name):
    """Whether an option was given another value than its default."""
    return getattr(args, name) != getattr(type(args), name)


def _is_missing(package):
    return importlib.util.find_spec(package) is None


RUN_CONFLICTS = (
    (
        lambda a: a.max_train_steps is not None and a.num_epochs is not None,
        "How long should it train? Give --max_train_steps {a.max_train_steps} or --num_epochs {a.num_epochs:g}, not "
        "both.",
    ),
    (
        lambda a: a.lr_scheduler == "constant" and a.lr_warmup_steps,
        "lr_warmup_steps={a.lr_warmup_steps} has no effect with lr_scheduler='constant': choose "
        "'constant_with_warmup', or 0 steps.",
    ),
    (
        lambda a: (a.learning_rate or 0) * a.adam_weight_decay > 1,
        "adam_weight_decay={a.adam_weight_decay:g} is not allowed with learning_rate={a.learning_rate:g}: an update "
        "takes the share learning_rate * adam_weight_decay from each weight, which must be at most 1.",
    ),
    (
        lambda a: a.report_to not in ("none", "all") and _is_missing(a.report_to),
        "report_to={a.report_to!r} needs the package: pip install {a.report_to}",
    ),
    (
        lambda a: a.optimizer == "adamw8bit" and _is_missing("bitsandbytes"),
        f"optimizer='adamw8bit' needs bitsandbytes: {install_extra('8bit')}.",
    ),
    (
        lambda a: a.random_crop and not a.center_crop,
        "random_crop=True cuts the square out, and center_crop=False squeezes the whole image into it: choose one.",
    ),
)


def _more_than_training(name):
    """The conflict of an option that counts timesteps to visit."""
    return (
        lambda a: getattr(a, name) > a.num_train_timesteps,
        f"{name}={{a.{name}}} must be at most num_train_timesteps={{a.num_train_timesteps}}.",
    )


_PROCESS_CONFLICTS = (
    _more_than_training("sample_steps"),
    _more_than_training("eval_steps"),
    (
        lambda a: a.beta_start >= a.beta_end,
        "beta_start={a.beta_start} must be smaller than beta_end={a.beta_end}.",
    ),
    (
        lambda a: (
            a.variance_type != a.variance_head and (a.variance_head is not None or a.variance_type in VARIANCE_HEADS)
        ),
        "variance_type={a.variance_type!r} does not go with variance_head={a.variance_head!r}: what a "
        "head predicts is used as what it is; leave variance_type out and it follows the head.",
    ),
)

_CONTINUOUS_CONFLICTS = (
    (
        lambda a: (
            a.process != "ddpm"
            and (a.objective != "simple" or a.variance_head is not None or a.min_snr_gamma is not None)
        ),
        "process={a.process!r} is trained by denoising score matching alone: leave out --objective, --variance_head "
        "and --min_snr_gamma.",
    ),
    (
        lambda a: (
            a.process != "ddpm"
            and (a.rescale_betas_zero_snr or any(_has_own(a, name) for name in ("beta_start", "beta_end")))
        ),
        "process={a.process!r} has no chain of betas: leave out --beta_start, --beta_end and "
        "--rescale_betas_zero_snr.",
    ),
    (
        lambda a: a.process != "ddpm" and a.eval_every,
        "eval_every={a.eval_every} measures the bound of a chain, which process={a.process!r} has not: leave it out, "
        "and measure the result with `ddpm-hf evaluate --metrics nll`.",
    ),
    (
        lambda a: a.process in ("ddpm", "edm") and (a.likelihood_weighting or a.discrete_levels),
        "likelihood_weighting and discrete_levels are of vp, sub_vp and ve, not of process={a.process!r}.",
    ),
    (
        lambda a: a.process != "edm" and a.sigma_data is not None,
        "sigma_data={a.sigma_data} is of edm, not of process={a.process!r}.",
    ),
    (
        lambda a: a.process not in ("ve", "edm") and a.sigma_max is not None,
        "sigma_max={a.sigma_max} is of ve and edm, not of process={a.process!r}.",
    ),
)

_OBJECTIVE_CONFLICTS = (
    (
        lambda a: a.objective == "hybrid" and a.variance_head is None,
        "objective='hybrid' is for a variance head, which alone learns from its bound: add --variance_head "
        "learned_range, or choose 'simple' or 'vlb'.",
    ),
    (
        lambda a: a.objective in COVARIANCE_HEADS and a.objective != a.variance_head,
        "objective={a.objective!r} teaches the head of that name, not variance_head="
        "{a.variance_head!r}: give --variance_head {a.objective}.",
    ),
    (
        lambda a: a.variance_head == "learned_range" and a.objective not in ("hybrid", "vlb"),
        "objective={a.objective!r} would leave variance_head='learned_range' untrained: choose --objective hybrid, or "
        "leave it out.",
    ),
    (
        lambda a: a.variance_head in COVARIANCE_HEADS and a.objective != a.variance_head,
        "objective={a.objective!r} would leave variance_head={a.variance_head!r} untrained: choose --objective "
        "{a.variance_head}, or leave it out.",
    ),
    (
        lambda a: a.objective in COVARIANCE_HEADS and not a.train_head_only,
        "variance_head={a.variance_head!r} learns the errors of a prediction that stays as it is: add "
        "--train_head_only and --init_from MODEL, or train a network without a head first.",
    ),
    (
        lambda a: a.objective == "ocm" and a.compile == "yes",
        "compile='yes' does not go with objective='ocm', whose gradient is taken through the network twice: leave it "
        "out.",
    ),
    (
        lambda a: a.objective != "hybrid" and _has_own(a, "vlb_weight"),
        "vlb_weight={a.vlb_weight} has no effect with objective={a.objective!r}.",
    ),
    (
        lambda a: a.objective not in ("simple", "hybrid") and a.min_snr_gamma is not None,
        "min_snr_gamma={a.min_snr_gamma} weights the mean square error of the prediction, which objective="
        "{a.objective!r} does not have: leave it out.",
    ),
    (
        lambda a: a.objective in ("hybrid", "vlb") and a.rescale_betas_zero_snr and a.prediction_type == "epsilon",
        "objective={a.objective!r} needs x0, which does not follow from epsilon where "
        "rescale_betas_zero_snr leaves no signal: choose --prediction_type v_prediction.",
    ),
)

_HEAD_CONFLICTS = (
    (
        lambda a: a.train_head_only and (a.init_from is None or a.variance_head is None),
        "train_head_only needs a trained network and a head for it: give --init_from MODEL and --variance_head, "
        f"one of {', '.join(VARIANCE_HEADS)}.",
    ),
    (
        lambda a: a.train_head_only and a.adam_weight_decay,
        "adam_weight_decay={a.adam_weight_decay} would also shrink the trained weights beside the head, which "
        "train_head_only is to leave alone: leave it at 0.",
    ),
)


def _of_condition_images(name, remedy):
    """The conflict of an option that is about condition images."""
    return (
        lambda a: (
            a.low_resolution is None and a.condition_column is None and a.init_from is None and _has_own(a, name)
        ),
        f"{name}={{a.{name}}} is about condition images, and there are none: {remedy}.",
    )


_CONDITION_CONFLICTS = (
    *(
        _of_condition_images(name, "give --low_resolution or --condition_column, or leave it out")
        for name in ("max_augmentation_level", "condition_dropout")
    ),
    (
        lambda a: a.low_resolution is not None and a.condition_column is not None,
        "low_resolution={a.low_resolution} makes condition images, and condition_column={a.condition_column!r} has "
        "some: give one of them.",
    ),
    (
        lambda a: a.condition_dropout and a.class_conditional,
        "condition_dropout={a.condition_dropout} is for models without classes; with class_conditional it is "
        "label_dropout that makes guidance possible.",
    ),
)

_VALUE_CONFLICTS = (
    (
        lambda a: a.value_dropout and a.value_column is None,
        "value_dropout={a.value_dropout} drops numbers, and none are told: name their column with --value_column, or "
        "leave it out.",
    ),
    (
        lambda a: a.value_dropout and a.condition_dropout,
        "value_dropout={a.value_dropout} is for guidance by the number, and condition_dropout={a.condition_dropout} "
        "for that by the condition image: give one of them.",
    ),
    (
        lambda a: a.value_column is not None and a.max_augmentation_level,
        "value_column={a.value_column!r} does not go with max_augmentation_level={a.max_augmentation_level}: leave "
        "one of them out.",
    ),
    (
        lambda a: a.streaming and a.value_column is not None and a.value_range is None and a.init_from is None,
        "value_column={a.value_column!r} of a stream does not tell its least and greatest number before it is read: "
        "give them with --value_range LOW,HIGH, or leave out --streaming.",
    ),
)


def _not_with(chosen, sentence):
    """A function that makes conflicts with a choice: of when another option is given, and of what is to be done."""
    return lambda holds, what: (lambda a: chosen(a) and holds(a), f"{sentence}: {what}.")


_not_with_buckets = _not_with(
    lambda a: a.aspect_buckets is not None,
    "aspect_buckets={a.aspect_buckets} gives each picture one of several shapes",
)

_BUCKET_CONFLICTS = (
    _not_with_buckets(lambda a: a.resolution is not None, "leave out --resolution {a.resolution}, which is one shape"),
    _not_with_buckets(
        lambda a: a.low_resolution is not None or a.condition_column is not None,
        "leave out --low_resolution and --condition_column, whose condition images are of one shape",
    ),
    _not_with_buckets(lambda a: a.vae is not None, "leave out --vae {a.vae}, whose latents are of one shape"),
    _not_with_buckets(lambda a: a.has_captions, "leave out the captions, with which all images have one shape"),
    _not_with_buckets(lambda a: a.streaming, "leave out --streaming, for their shapes are read before the training"),
    _not_with_buckets(
        lambda a: a.sample_neighbours,
        "leave out --sample_neighbours, and look for neighbours of the result with `ddpm-hf evaluate --metrics "
        "memorisation`",
    ),
)

_EVALUATION_CONFLICTS = (
    (
        lambda a: a.sample_neighbours and a.streaming,
        "sample_neighbours={a.sample_neighbours} searches the training images again and again, which a stream does "
        "not give: leave out --streaming.",
    ),
    (
        lambda a: a.eval_features is not None and not a.eval_every,
        "eval_features={a.eval_features!r} has no effect without --eval_every, the updates between its measurements.",
    ),
    (
        lambda a: a.eval_features is not None and a.condition_column is not None,
        "eval_features={a.eval_features!r} does not compare samples of pairs with held-out images, and "
        "condition_column={a.condition_column!r} makes pairs: leave out --eval_features.",
    ),
    (
        lambda a: a.eval_every and a.eval_split is None,
        "eval_every={a.eval_every} needs images that are not trained on: name their split with --eval_split, or "
        "keep some back with --split 'train[:95%]' --eval_split 'train[95%:]'.",
    ),
    (
        lambda a: a.eval_every and a.eval_split == a.split,
        "eval_split={a.eval_split!r} is trained on, so it tells nothing of other images: give another, or keep "
        "some back with --split 'train[:95%]' --eval_split 'train[95%:]'.",
    ),
)


def _kept_images(name):
    """The conflict of a limit of the images that are kept."""
    return (
        lambda a: a.streaming and _has_own(a, name),
        f"{name}={{a.{name}:g}} has no effect with streaming, which keeps no images.",
    )


_STREAMING_CONFLICTS = (
    (
        lambda a: not a.streaming and _has_own(a, "shuffle_buffer"),
        "shuffle_buffer={a.shuffle_buffer} has no effect without streaming: all of the data is shuffled.",
    ),
    (
        lambda a: a.streaming and a.num_epochs is not None,
        "num_epochs={a.num_epochs:g} cannot be counted with streaming, which does not know how many images there "
        "are: give --max_train_steps or --minutes.",
    ),
    _kept_images("in_memory_limit_gb"),
    _kept_images("on_disk_limit_gb"),
)

_SAMPLE_CONFLICTS = (
    (
        lambda a: a.save_images_epochs is not None and a.sample_every is not None,
        "save_images_epochs={a.save_images_epochs:g} and sample_every={a.sample_every} both say when samples are "
        "drawn: give one of them.",
    ),
    (
        lambda a: a.save_images_epochs is not None and a.streaming,
        "save_images_epochs={a.save_images_epochs:g} cannot be counted with streaming, which does not know how many "
        "images there are: give --sample_every.",
    ),
)


_not_with_vae = _not_with(lambda a: a.vae is not None, "vae={a.vae!r} encodes each image once, before the training")

_LATENT_CONFLICTS = (
    _not_with_vae(lambda a: a.random_crop, "leave out --random_crop, whose crops are new each time"),
    _not_with_vae(lambda a: a.streaming, "leave out --streaming, whose images are read as they come"),
    _not_with_vae(
        lambda a: a.low_resolution is not None or a.condition_column is not None,
        "leave out --low_resolution and --condition_column, whose condition images are of pixels",
    ),
    _not_with_vae(
        lambda a: a.point_columns is not None or a.dataset in POINT_CLOUD_NAMES,
        "give images and a network of images, for points are not encoded",
    ),
    _not_with_vae(
        lambda a: a.sample_neighbours,
        "leave out --sample_neighbours, and look for neighbours of the result with `ddpm-hf evaluate --metrics "
        "memorisation`",
    ),
    _not_with_vae(
        lambda a: a.eval_every,
        "leave out --eval_every, whose bits per dimension are of images, and measure samples with `ddpm-hf evaluate`",
    ),
)


_not_with_captions = _not_with(lambda a: a.has_captions, "Captions were asked for")

_CAPTION_CONFLICTS = (
    (
        lambda a: a.text_encoder is not None and not a.has_captions,
        "text_encoder={a.text_encoder!r} has no effect without captions: give --caption_column or --caption_template.",
    ),
    _not_with_captions(
        lambda a: a.unet in NETWORK_PRESETS and a.unet not in TEXT_PRESETS,
        f"unet={{a.unet!r}} is told none, and one of {', '.join(TEXT_PRESETS)} is, or a config.json of a "
        "UNet2DConditionModel",
    ),
    _not_with_captions(
        lambda a: a.value_column is not None, "they stand in the place of numbers, leave out --value_column"
    ),
    _not_with_captions(
        lambda a: a.class_conditional, "they stand in the place of classes, leave out --class_conditional"
    ),
    _not_with_captions(lambda a: a.streaming, "leave out --streaming, because all of them are read before"),
    _not_with_captions(
        lambda a: a.low_resolution is not None or a.condition_column is not None,
        "leave out --low_resolution and --condition_column, for a model is told a text or an image",
    ),
    _not_with_captions(
        lambda a: a.variance_head is not None or a.objective != "simple",
        "leave out --variance_head and --objective, for the stock network predicts the mean alone",
    ),
    _not_with_captions(lambda a: a.init_from is not None, "leave out --init_from, for such a model is trained anew"),
    _not_with_captions(
        lambda a: a.process != "ddpm", "leave out --process {a.process}, for the stock pipeline runs ddpm alone"
    ),
    _not_with_captions(lambda a: a.eval_every, "leave out --eval_every, which measures images without a text"),
    _not_with_captions(lambda a: a.ema == "power", "leave out --ema power, whose averages are made of a whole model"),
    _not_with_captions(
        lambda a: a.point_columns is not None or a.dataset in POINT_CLOUD_NAMES,
        "they are of images, and these are points",
    ),
)

TRAINING_CONFLICTS = (
    (
        lambda a: a.minutes is not None and (a.max_train_steps is not None or a.num_epochs is not None),
        "How long should it train? Give --minutes={a.minutes:g}, --max_train_steps or --num_epochs, only one of them.",
    ),
    *_PROCESS_CONFLICTS,
    *_CONTINUOUS_CONFLICTS,
    *_OBJECTIVE_CONFLICTS,
    *_HEAD_CONFLICTS,
    *_CONDITION_CONFLICTS,
    *_VALUE_CONFLICTS,
    *_BUCKET_CONFLICTS,
    *_EVALUATION_CONFLICTS,
    *_STREAMING_CONFLICTS,
    *_SAMPLE_CONFLICTS,
    *_LATENT_CONFLICTS,
    *_CAPTION_CONFLICTS,
    (
        lambda a: a.hub_license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.\-]*", a.hub_license),
        "hub_license={a.hub_license!r} is not as the Hub spells a licence, in small letters, digits, '-' and '.': "
        "apache-2.0, mit, cc-by-4.0.",
    ),
    (
        lambda a: a.dataset is None and max(sides_of_size(a.resolution or 1)) > 32,
        "resolution={a.resolution} would blow up the embedded Fashion-MNIST, which has 28x28 pixels: name "
        "your data with --dataset.",
    ),
)
