"""The options of training a classifier of noisy images: those of every training, and a few of its own."""

from dataclasses import dataclass, field
from typing import Literal

from ddpm_hf.data.arguments import option
from ddpm_hf.training.argument_conflicts import refuse_conflicts
from ddpm_hf.training.arguments import RunArguments
from ddpm_hf.training.choices import TIMESTEP_SAMPLINGS

# Channels of one group of the normalizations, of which the first level has as many as this.
NORM_NUM_GROUPS = 8

CONFLICTS = (
    (
        lambda a: a.max_train_steps is None and a.num_epochs is None,
        "How long should it train? Give --max_train_steps or --num_epochs (neither was given).",
    ),
    (
        lambda a: a.model is None,
        "Which model is the classifier for? Give --model, a pipeline folder or a Hub id.",
    ),
    (
        lambda a: a.width % NORM_NUM_GROUPS,
        f"width={{a.width}} is not allowed: it must be a multiple of {NORM_NUM_GROUPS}.",
    ),
)


@dataclass
class ClassifierArguments(RunArguments):
    """The training of a classifier of the noisy images that a diffusion model makes."""

    # The classes of the data are what is learned, and the model says how large its images are: no choices here.
    class_conditional: bool = field(default=True, init=False)
    resolution: str | None = field(default=None, init=False)
    caption_column: str | None = field(default=None, init=False)
    caption_template: str | None = field(default=None, init=False)

    # The diffusion model that the classifier is for
    model: str | None = option(
        None, "Pipeline folder or Hub id of the diffusion model that the classifier is to steer."
    )

    # Network
    width: int = option(
        32, f"Channels of the first level, a multiple of {NORM_NUM_GROUPS}; the next have 2, 3 and 4 times as many."
    )
    layers_per_block: int = option(1, "Residual blocks of each level; the paper has 2 on 64x64 images and above.")
    dropout: float = option(0.0, "Share of values dropped in the residual blocks, against overfitting of small data.")

    # Optimization
    learning_rate: float = option(3e-4, "Peak learning rate; the paper's value, and small networks take 1e-3.")
    adam_weight_decay: float = option(0.05, "Decoupled weight decay; the paper's value.")
    timestep_sampling: Literal[TIMESTEP_SAMPLINGS] = option(
        "uniform",
        "uniform, as in the paper; low_discrepancy, evenly spread over each batch, for a less noisy loss; importance, in "
        "proportion to the size of the loss.",
    )

    # Result
    output_dir: str = option(
        "outputs/classifier", "Folder for the model and its classifier; the same command again resumes the run in it."
    )
    eval_split: str | None = option(
        None,
        "Split on which the accuracy is measured, not seen in training; by default test of the embedded Fashion-MNIST, "
        "else that of the training.",
    )
    num_eval_images: int = option(2000, "Images of it, drawn at random; fewer where it has fewer.")

    def __post_init__(self):
        super().__post_init__()
        refuse_conflicts(self, CONFLICTS)
        if self.eval_split is None:
            self.eval_split = "test" if self.dataset is None else self.split
