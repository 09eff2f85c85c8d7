"""Images within figures."""


def show_image(axes, image):
    """An image (C, H, W) of the model's range [-1, 1], without axes; of one channel in grey."""
    pixels = ((image.float() + 1) / 2).clamp(0, 1).movedim(0, -1).cpu().numpy()
    axes.imshow(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
    axes.grid(False)
    axes.set(xticks=[], yticks=[])
