"""Training of a variance head alone, on a network whose prediction is good already and is to stay what it is."""


def freeze_all_but_head(unet):
    """Keeps every weight of `unet` but those of the channels of its variance head from learning; returns `unet`.

    The prediction and the head are rows of one layer, so the rows of the prediction get gradients of zero, from
    which Adam, and the average of the weights, leave them bit for bit as they are (weight decay would not).
    """
    unet.requires_grad_(False)
    channels = unet.config.in_channels

    def without_prediction(gradient):
        gradient = gradient.clone()
        gradient[:channels] = 0
        return gradient

    for parameter in (unet.output_layer.weight, unet.output_layer.bias):
        parameter.requires_grad_(True)
        parameter.register_hook(without_prediction)
    return unet
