"""The flags of diffusers' train_unconditional.py, so that its command lines run here; docs/training.md lists them."""

import os
from dataclasses import dataclass
from typing import ClassVar

from ddpm_hf.data.arguments import option
from ddpm_hf.errors import InputError

# The flags that mean what an option of ours means.
SAME = {
    "dataset_name": "dataset",
    "train_data_dir": "dataset",
    "dataset_config_name": "dataset_config",
    "model_config_name_or_path": "unet",
    "train_batch_size": "batch_size",
    "eval_batch_size": "num_samples",
    "dataloader_num_workers": "dataloader_workers",
    "ema_max_decay": "ema_decay",
    "checkpointing_steps": "checkpoint_every",
    "checkpoints_total_limit": "checkpoints_limit",
    "ddpm_num_steps": "num_train_timesteps",
    "ddpm_num_inference_steps": "sample_steps",
    "ddpm_beta_schedule": "beta_schedule",
    "hub_private_repo": "hub_private",
    "logger": "report_to",
}

# The flags that have no counterpart, each with what to do instead.
REFUSED = {
    "save_model_epochs": "the pipeline is written when the run ends, and --checkpoint_every, in updates, saves what "
    "a run resumes from.",
    "overwrite_output_dir": "a run does not overwrite another; choose another --output_dir, or remove that one.",
    "local_rank": "leave it out, as `accelerate launch` tells each process its rank.",
    "enable_xformers_memory_efficient_attention": "leave it out, as torch's own attention saves the memory.",
    "use_auth_token": "leave it out, as the token of `hf auth login` is used where one is needed.",
}


@dataclass
class ScriptFlags:
    """The flags of the script that ask for what a run here does anyway, or for what no run records."""

    title: ClassVar[str] = "As in diffusers' train_unconditional.py"

    use_ema: bool = option(True, "Average the weights, as every run does; --ema_decay 0 is no average.")
    resume_from_checkpoint: str = option(
        "latest", "Continue at the newest checkpoint in the output folder, as every run does."
    )
    hub_token: str | None = option(
        None, "Token of the Hub; better is `hf auth login`, for others see the command lines of a machine."
    )

    def __post_init__(self):
        if not self.use_ema:
            raise InputError(
                "use_ema=False: the averaged weights are what is saved; give --ema_decay 0 for no average."
            )
        if self.resume_from_checkpoint != "latest":
            raise InputError(
                f"resume_from_checkpoint={self.resume_from_checkpoint!r} is not possible: a run continues at the "
                "newest checkpoint in its --output_dir; leave the option out."
            )

    def take_effect(self):
        """Gives the token to what reads it from the environment, so that no file of the run records it."""
        if self.hub_token is not None:
            os.environ["HF_TOKEN"] = self.hub_token
