"""The pipeline that enlarges images: a network that is told an image of low resolution, in tiles for large images."""

import torch
from diffusers.utils.torch_utils import randn_tensor

from ddpm_hf.pipelines.image_inputs import images_as_given
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.pipelines.run_arguments import agreed_batch_size
from ddpm_hf.pipelines.tiles import blended, check_overlap, tiles_of


class GaussianDiffusionUpscalePipeline(GaussianDiffusionPipeline):
    """Draws large images that are the given ones in low resolution (Saharia et al. 2021; Ho et al. 2021).

    It takes the networks that `ddpm-hf train --low_resolution` makes. Images larger than the low resolution of the
    training are drawn in tiles: all tiles of x_t are given to the network at every step, and where they overlap, its
    outputs are blended, so that the whole image is one sample without seams.
    """

    tile_overlap = 0.25

    @torch.no_grad()
    def __call__(
        self,
        image,
        augmentation_level: float = 0.0,
        batch_size: int = 1,
        tile_overlap: float = 0.25,
        class_labels=None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        **kwargs,
    ):
        """Enlarge images.

        Args:
            image: PIL, numpy or torch, one for all or a list of one for each, all of one size
                (`image_inputs.prepare_images`); at least as large as the model's low resolution.
            augmentation_level: noise to add to it, up to the highest level of the training (Ho et al. 2021): it hides
                faults of the image, which then binds less. 0, the default, is for images without faults.
            batch_size: number of samples, which a list of labels, generators or images implies too.
            tile_overlap: the share of a tile's side that overlaps the next tile, in [0, 1).
            class_labels, generator, latents, kwargs: as in [`GaussianDiffusionPipeline`].

        Returns:
            The output of [`GaussianDiffusionPipeline`].
        """
        check_overlap(tile_overlap)
        image = self._image_of_low_resolution(image)
        self.tile_overlap = tile_overlap
        several = {"image": image} if len(image) > 1 else {}
        batch_size = agreed_batch_size(
            batch_size, **several, class_labels=class_labels, generator=generator, latents=latents
        )
        factors = self.samples.condition.factor(self.samples.sides)
        sides = tuple(side * factor for side, factor in zip(image.shape[2:], factors, strict=True))
        if latents is None and sides != self.samples.sides:
            shape, device = (batch_size, self.samples.channels, *sides), self._execution_device
            latents = randn_tensor(shape, generator, device, torch.float32) * self.scheduler.init_noise_sigma
        return super().__call__(
            batch_size=batch_size,
            class_labels=class_labels,
            generator=generator,
            latents=latents,
            condition_image=image,
            augmentation_level=augmentation_level,
            **kwargs,
        )

    def predict(self, latents, t, t_on_device, conditioning):
        """As [`GaussianDiffusionPipeline.predict`], tile by tile."""

        def predict_tile(rows, columns):
            told = conditioning._replace(image=conditioning.image[..., rows, columns])
            predict = super(GaussianDiffusionUpscalePipeline, self).predict
            return predict(latents[..., rows, columns], t, t_on_device, told)

        sides, condition = self.samples.sides, self.samples.condition
        tiles = tiles_of(latents.shape[2:], sides, condition.factor(sides), self.tile_overlap)
        return predict_tile(*tiles[0]) if len(tiles) == 1 else blended(predict_tile, tiles, latents.shape[2:])

    def _image_of_low_resolution(self, image):
        """The images as one tensor (N, C, h, w) in [0, 1]."""
        condition = self.samples.condition
        if condition is None or condition.low_resolution is None:
            raise ValueError("This model enlarges no images: train one with `ddpm-hf train --low_resolution`.")
        images = images_as_given("image", image, condition.condition_channels)
        sizes = {tuple(one.shape[2:]) for one in images}
        least = condition.low_resolution
        if len(sizes) > 1 or any(side < small for side, small in zip(min(sizes), least, strict=True)):
            given = ", ".join("{}x{}".format(*size) for size in sorted(sizes))
            raise ValueError(
                f"image is of {given} (height x width): the images must be of one size, at least "
                f"{least[0]}x{least[1]}, from which the model enlarges."
            )
        return torch.cat(images)
