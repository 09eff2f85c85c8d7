"""Training of a variance head alone, on a trained network whose prediction must not change."""

from ddpm_hf.samples.kind import channels_of


def freeze_all_but_head(unet):
    """Freezes all weights of `unet` except the channels of its variance head; returns `unet`.

    The prediction and the head are rows of one layer, so the rows of the prediction get zero gradients. With these,
    Adam and the average of the weights leave them bit for bit unchanged (weight decay would not).
    """
    unet.requires_grad_(False)
    channels = channels_of(unet.config)

    def without_prediction(gradient):
        gradient = gradient.clone()
        gradient[:channels] = 0
        return gradient

    for parameter in (unet.output_layer.weight, unet.output_layer.bias):
        parameter.requires_grad_(True)
        parameter.register_hook(without_prediction)
    return unet
