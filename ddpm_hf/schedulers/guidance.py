"""Steering a reverse process to a class: with the network's own labels, or with a classifier of noisy images."""

import torch

GUIDANCE_FORMS = ("score", "mean")


def classifier_free_guidance(output, channels, scale, rescale=0.0):
    """eps_null + scale (eps_class - eps_null) (Ho & Salimans 2022, eq. 6, where their w is scale - 1).

    The formula holds for every prediction type, because x0 and v are affine in epsilon for a given x_t. Only the mean
    is guided; a variance head keeps its channels for the class.

    Args:
        output (`torch.Tensor`): (2B, C or 2C, *), from one network call: B for the class, B for the null label.
        channels (`int`): C.
        scale (`float`): 1 is the class alone, 0 the null label alone.
        rescale (`float`): phi of `rescaled_guidance`.

    Returns:
        `torch.Tensor`: (B, C or 2C, *).
    """
    conditional, null = output.chunk(2)
    guided = null[:, :channels].lerp(conditional[:, :channels], scale)
    if rescale > 0:
        guided = rescaled_guidance(guided, conditional[:, :channels], rescale)
    return torch.cat([guided, conditional[:, channels:]], dim=1)


def rescaled_guidance(guided, conditional, rescale):
    """phi guided std(conditional) / std(guided) + (1 - phi) guided, std per image (Lin et al. 2023, eq. 15 and 16).

    Guidance makes predictions larger, and images too bright and saturated. The network's output is rescaled, as in the
    paper, whose network predicts v, and as in diffusers for every prediction type. The effect depends on the type: for
    x0, and for v at high noise levels (where v is -x0), it restores the contrast of the image; for epsilon, and for v
    at low noise levels, the contrast of the noise.

    Args:
        guided, conditional (`torch.Tensor`): (B, C, *).
        rescale (`float`): phi, 0 (off) to 1; the paper uses 0.7.
    """
    dims = tuple(range(1, guided.ndim))
    ratio = conditional.std(dims, keepdim=True) / guided.std(dims, keepdim=True)
    return guided * (rescale * ratio + (1 - rescale))


def classifier_gradient(classifier, sample, timestep, labels, scale=1.0):
    """scale * d log p(y | x_t) / d x_t (Dhariwal & Nichol 2021, algorithms 1 and 2), in float32 at least.

    Args:
        classifier (`torch.nn.Module`): f(sample, timestep) gives logits (B, classes).
        sample (`torch.Tensor`): x_t, (B, C, *).
        timestep (`torch.Tensor`): t, () or (B,), where the classifier is.
        labels (`torch.Tensor`): y, (B,).
    """
    with torch.enable_grad():
        x_t = sample.detach().to(torch.promote_types(sample.dtype, torch.float32)).requires_grad_()
        logits = classifier(x_t.to(classifier.dtype), timestep).to(x_t.dtype)
        log_likelihood = logits.log_softmax(dim=1).gather(1, labels[:, None])
        # Each image's likelihood depends on that image alone, so the gradient of the sum holds every image's gradient.
        return torch.autograd.grad(scale * log_likelihood.sum(), x_t)[0]
