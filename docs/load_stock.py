"""Loads the model of `make demo` with diffusers alone, and draws a grid of samples."""

from diffusers import DiffusionPipeline
from diffusers.utils import make_image_grid

pipeline = DiffusionPipeline.from_pretrained("outputs/demo")
print(f"Loaded {type(pipeline).__name__} with {type(pipeline.unet).__name__} and {type(pipeline.scheduler).__name__}.")
images = pipeline(batch_size=16, num_inference_steps=100).images
make_image_grid([image.resize((84, 84)) for image in images], rows=4, cols=4).save("outputs/demo/samples_stock.png")
