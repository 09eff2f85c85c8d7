"""Checks that a checkpoint belongs to the run that it should continue."""

from accelerate.utils import DistributedType

from ddpm_hf.data import count_images
from ddpm_hf.errors import InputError
from ddpm_hf.reports.report_files import TRAINING_OPTIONS
from ddpm_hf.training.checkpoints import list_checkpoints

# These engines store the state of processes in their own formats, which other engines cannot read.
SHARDING = (DistributedType.FSDP, DistributedType.DEEPSPEED)


def describe_training(accelerator, model, num_images):
    """The entries about the training in a checkpoint's manifest, for `check_same_training`."""
    shapes = {name: list(p.shape) for name, p in accelerator.unwrap_model(model).named_parameters()}
    engine = accelerator.distributed_type
    return {
        "num_processes": accelerator.num_processes,
        "engine": engine.value if engine in SHARDING else "DDP",
        "num_images": num_images,
        "shapes": shapes,
    }


def check_same_training(manifest, now, output_dir):
    """Checks that the training described by `now` can continue the checkpoint described by `manifest`.

    Raises:
        InputError: if the checkpoint is of another network, other data or another engine.
    """
    where = f"The checkpoint in output_dir={output_dir!r}"
    other = "Continue it with what it was made with, or choose another output_dir."
    if manifest["shapes"] != now["shapes"]:
        raise InputError(
            f"{where} is of another network: {_first_difference(manifest['shapes'], now['shapes'])}. {other}"
        )
    if manifest["num_images"] != now["num_images"]:
        raise InputError(
            f"{where} was made with {manifest['num_images']} readable images, and now there are {now['num_images']}, "
            f"so that their order would be another. {other}"
        )
    sharded = DistributedType.DEEPSPEED.value == now["engine"] and manifest["num_processes"] != now["num_processes"]
    if manifest["engine"] != now["engine"] or sharded:
        raise InputError(
            f"{where} was written by {manifest['engine']} on {manifest['num_processes']} processes, in files that "
            f"{now['engine']} on {now['num_processes']} does not read. {other}"
        )


def check_data_unchanged(args, source):
    """Checks, before decoding, that the data are those of the folder's checkpoints.

    Runs of earlier versions have no fingerprint; for them only the number of images is compared.

    Raises:
        InputError: if number, content or order of the data differ.
    """
    if not list_checkpoints(args.output_dir):
        return
    stored = TRAINING_OPTIONS.read(args.output_dir)["environment"]
    number = count_images(source)
    before = stored.get("num_images", number)
    where = f"output_dir={args.output_dir!r} holds a run"
    restore = "restore the data to continue it, or choose another output_dir"
    if before != number:
        raise InputError(
            f"{where} on {before} images, and the data set has {number} now, so that their order would be another: "
            f"{restore}."
        )
    # None for drawn points, which the options determine.
    fingerprint = stored.get("data_fingerprint") or source.fingerprint
    if fingerprint != source.fingerprint:
        raise InputError(
            f"{where} on other data: dataset={args.dataset!r} has other content now, or the same in another order "
            f"(fingerprint {source.fingerprint} instead of {fingerprint}): {restore}."
        )


def _first_difference(before, now):
    for name in [*before, *now]:
        if before.get(name) != now.get(name):
            there, here = (_as_words(shapes.get(name)) for shapes in (before, now))
            return f"{name} {there} in it, and {here} in this one"
    return "its parameters come in another order"


def _as_words(shape):
    return "is missing" if shape is None else f"has shape {tuple(shape)}"


def save_without_wrappers(accelerator):
    """Makes the names of weights in checkpoints independent of the number of processes and of compilation."""

    # Sharding engines save weights themselves and pass none to this hook.
    def before_saving(models, weights, folder):
        unwrapped = [accelerator.unwrap_model(model, keep_torch_compile=False) for model in models]
        weights[:] = [model.state_dict() for model, _ in zip(unwrapped, weights, strict=False)]

    accelerator.register_save_state_pre_hook(before_saving)
