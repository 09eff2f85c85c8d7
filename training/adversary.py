"""The patch discriminator that an autoencoder is trained against (Esser et al. 2021, Rombach et al. 2022)."""

import torch
import torch.nn.functional as F
from torch.nn.grad import conv2d_weight
from torch.nn.utils import clip_grad_norm_

from ddpm_hf.errors import InputError
from ddpm_hf.training.patch_discriminator import LEAST_SIDE, PatchDiscriminator

# The paper's delta, and the bound of its code, of the adaptive weight.
DELTA, LARGEST_WEIGHT = 1e-6, 1e4
# The decays of Adam in the paper's code.
BETAS = (0.5, 0.9)


class Adversary:
    r"""A patch discriminator D with its optimizer, which learns beside an autoencoder, and opposes it.

    The autoencoder minimises the first, and D the hinge loss (Esser et al. 2021, eq. 6 and 7, and their code):

    .. math::
        L_{rec} - w \lambda \, E[D(\hat x)], \quad
        \lambda = \frac{\|\nabla_{last} L_{rec}\|}{\|\nabla_{last} E[D(\hat x)]\| + \delta}, \quad
        L_D = \frac{1}{2} E[\max(0, 1 - D(x)) + \max(0, 1 + D(\hat x))]

    where the gradients are by the weights of the decoder's last layer, and the means are over images and patches. Each
    batch has its own :math:`\lambda`. D is the same in all processes, without a wrapper: its gradients are averaged
    over batches and processes, and it updates when the autoencoder does, from the same reconstructions, with its
    learning rate.

    Args:
        args (`AutoencoderArguments`): options with `discriminator_weight`, w, and `discriminator_start`.
        accelerator (`accelerate.Accelerator`): the accelerator of the run.
        autoencoder ([`LearningAutoencoder`]): the network before the training; what its last layer is given is noted.
        sides (`tuple[int]`): height and width of the images.
    """

    terms = ("generator_loss", "adversarial_weight", "discriminator_loss")

    def __init__(self, args, accelerator, autoencoder, sides):
        self.args, self.accelerator, self.updates = args, accelerator, 0
        network = PatchDiscriminator(autoencoder.config.out_channels, min(sides))
        self.network = network.to(accelerator.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), betas=BETAS, fused=True)
        self.last_layer = autoencoder.decoder.conv_out
        self.last_layer.register_forward_pre_hook(self._note)

    @property
    def is_on(self):
        """Whether the warm-up is over."""
        return self.updates >= self.args.discriminator_start

    def oppose(self, images, reconstructed, errors_of):
        """The errors of reconstructions with the gradient of the whole loss; D learns from the same images.

        Args:
            images, reconstructed (`torch.Tensor`): (N, C, H, W).
            errors_of: a function of the two that gives the error of each image, (N,).

        Returns:
            The errors, (N,), and further values of the batch by name. The value does not hold what D says, because the
            adaptive weight, which changes from batch to batch, would hide how the reconstruction goes.
        """
        at = reconstructed.detach().requires_grad_()
        errors, fooled = errors_of(images, at), -self.network(at).flatten(1).mean(1)
        # Taken at the images, so that neither D nor the wrappers of the autoencoder see a backward pass of it.
        gradient, adversarial = (torch.autograd.grad(losses.sum(), at)[0] for losses in (errors, fooled))
        ratio = self._norm_at_last_layer(gradient) / (self._norm_at_last_layer(adversarial) + DELTA)
        weight = self.args.discriminator_weight * ratio.clamp(max=LARGEST_WEIGHT)
        told = {
            "generator_loss": fooled.detach().mean(),
            "adversarial_weight": weight,
            "discriminator_loss": self._learn(images, at.detach()),
        }
        return _with_gradient(errors.detach(), gradient + weight * adversarial, reconstructed), told

    def finish_update(self, learning_rate):
        """Updates D by the gradients of all batches of an update, of all processes, which must all call this."""
        if self.is_on:
            self._step(learning_rate)
        self.updates += 1

    def _step(self, learning_rate):
        parameters = list(self.network.parameters())
        for parameter in parameters:
            parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
        norm = clip_grad_norm_(parameters, self.args.max_grad_norm)
        self.optimizer.found_inf = (~norm.isfinite()).float()  # the fused kernel then changes nothing
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _learn(self, images, reconstructed):
        """Adds the gradients of the hinge loss of D; returns the loss."""
        true, made = self.network(images), self.network(reconstructed)
        loss = (F.relu(1 - true).mean() + F.relu(1 + made).mean()) / 2
        (loss / self.args.gradient_accumulation_steps).backward()
        return loss.detach()

    def _note(self, layer, inputs):
        self.into_last_layer = inputs[0].detach()

    def _norm_at_last_layer(self, gradient):
        """The norm of the gradient by the weights of the last layer, from that by what it gives."""
        layer, inputs = self.last_layer, self.into_last_layer.float()
        return conv2d_weight(inputs, layer.weight.shape, gradient, layer.stride, layer.padding).norm()

    def state_dict(self):
        """Weights, the optimizer's state, whose numbers of parameters become text, and the updates of the run."""
        optimizer = self.optimizer.state_dict()
        numbered = {str(number): values for number, values in optimizer["state"].items()}
        return {
            "network": self.network.state_dict(),
            "optimizer": optimizer | {"state": numbered},
            "updates": self.updates,
        }

    def load_state_dict(self, state):
        self.network.load_state_dict(state["network"])
        optimizer = state["optimizer"]
        numbered = {int(number): values for number, values in optimizer["state"].items()}
        self.optimizer.load_state_dict(optimizer | {"state": numbered})
        self.updates = state["updates"]


def _with_gradient(values, gradient, at):
    """`values`, (N,), without a graph, with that of `at`, (N, ..), by which their sum gets the given gradient."""
    linear = (gradient * at).flatten(1).sum(1)
    return values + (linear - linear.detach())


def check_discriminator(args, sides, total_steps):
    """Checks that there are patches, and updates after the warm-up.

    Raises:
        InputError: for images that are too small, and a start beyond the end of the training.
    """
    if not args.discriminator_weight:
        return
    if min(sides) < LEAST_SIDE:
        raise InputError(
            f"discriminator_weight={args.discriminator_weight} needs images with sides of {LEAST_SIDE} at least: "
            "leave it out."
        )
    if args.discriminator_start >= total_steps:
        raise InputError(
            f"discriminator_start={args.discriminator_start} is not before the end of the training, which has "
            f"{total_steps} updates: begin with half of them, --discriminator_start {total_steps // 2}."
        )
