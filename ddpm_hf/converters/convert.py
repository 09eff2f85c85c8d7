"""Converts a checkpoint of another codebase: from a file and its options to a pipeline."""

from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from ddpm_hf.converters.checkpoint_files import Checkpoint, read_checkpoint
from ddpm_hf.converters.conversion import Conversion
from ddpm_hf.converters.families import Family, family_of
from ddpm_hf.converters.folder import report_of, write_converted
from ddpm_hf.converters.options import read_options, with_changes
from ddpm_hf.converters.processes import sampled
from ddpm_hf.results import alone_in_free_folder


def convert_checkpoint(checkpoint, options=None, output_dir=None, weights=None, check=None):
    """A pipeline of a checkpoint of improved-diffusion, guided-diffusion, ddim, pytorch_diffusion or score_sde.

    The code that it is of, and the form of its network, are read from its weights; the rest from `options`. Its
    outputs are those of the code, to rounding. A file is read without running code that it may hold.

    Args:
        checkpoint: the file, of PyTorch or safetensors.
        options: what the weights do not tell (heads, attention order, schedule ..): a dictionary, a JSON or YAML
            file, flags (`"--image_size 64 --num_heads 4"`), the name of a published checkpoint, or a list of these.
        output_dir (*optional*): a new folder, for the pipeline.
        weights (`str`, *optional*): `"ema"` or `"raw"`; by default averaged weights where there are some.
        check (*optional*): a function of an [`OpenedCheckpoint`], its [`Conversion`] and what is returned, which gives
            a [`Check`] for the report, or None, as [`SelfCheck`].

    Returns:
        [`GaussianDiffusionPipeline`], or for a classifier of guided-diffusion a [`NoisyImageClassifier`].

    Raises:
        InputError: for a file that is no checkpoint or of an unknown code, for options that are missing, contradict
            the weights, or are held by no class; nothing is written then.
    """
    with nullcontext() if output_dir is None else alone_in_free_folder(Path(output_dir)):
        opened = open_checkpoint(checkpoint, options, weights)
        conversion = opened.read()
        result = sampled(conversion)
        checked = None if check is None else check(opened, conversion, result)
        if output_dir is not None:
            report = report_of(checkpoint, conversion, opened.checkpoint.kind, checked)
            write_converted(result, report, output_dir)
    return result


class OpenedCheckpoint(NamedTuple):
    """A checkpoint with the code that it is of, and its options."""

    checkpoint: Checkpoint
    family: Family
    options: dict

    def read(self, changes=None) -> Conversion:
        """The [`Conversion`]; `changes` are options instead of the given ones."""
        return self.family.convert(self.checkpoint.weights, with_changes(self.options, changes or {}))


def open_checkpoint(checkpoint, options=None, weights=None):
    """The [`OpenedCheckpoint`] of a file."""
    given = read_options(options)
    read = read_checkpoint(checkpoint, weights)
    return OpenedCheckpoint(read, family_of(checkpoint, read.weights), given)
