import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from PIL import Image
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.errors import InputError
from ddpm_hf.pipelines.image_inputs import check_scheduler, prepare_images, prepare_mask, read_image


@pytest.fixture
def pipeline(stock_unet):
    return GaussianDiffusionPipeline(stock_unet, DDPMScheduler())


def test_all_kinds_are_the_same_image(pipeline, picture):
    image = picture()
    array = np.array(image, dtype=np.float32) / 255
    tensor = torch.from_numpy(array)[None]
    expected = torch.from_numpy(np.array(image)).double()[None, None] / 127.5 - 1
    for same in (
        image,
        [image],
        array,
        array[..., None],
        array[None, ..., None],
        [array],
        tensor,
        tensor[None],
        [tensor],
    ):
        x_0 = prepare_images(pipeline, same)
        assert x_0.dtype == torch.float32
        assert_close(x_0.double(), expected, rtol=0, atol=1e-6)
    assert prepare_images(pipeline, [image, array, tensor[None].expand(3, -1, -1, -1)]).shape == (5, 1, 8, 8)


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_and_more(tiny_unet, channels):
    """Four channels are no latents here, whatever stands for them in diffusers."""
    pipeline = GaussianDiffusionPipeline(tiny_unet(in_channels=channels), DDPMScheduler())
    image = Image.new("RGB" if channels == 3 else "RGBA", (8, 8), (255, 0, 51, 255)[:channels])
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    for x_0 in (prepare_images(pipeline, image), prepare_images(pipeline, tensor)):
        assert_close(x_0[0, :3, 2, 5], torch.tensor([1.0, -1.0, -0.6]))


def test_double_precision_is_kept(pipeline):
    assert prepare_images(pipeline.to(dtype=torch.float64), np.zeros((8, 8))).dtype == torch.float64
    assert prepare_images(pipeline.to(dtype=torch.bfloat16), np.zeros((8, 8))).dtype == torch.float32


def test_other_sizes_are_resized_with_a_note(pipeline, picture, diffusers_log):
    image = Image.new("L", (16, 12), 51)
    assert_close(prepare_images(pipeline, [image, picture()])[0], torch.full((1, 8, 8), -0.6))
    assert "resized from 12x16 to 8x8 (height x width)" in diffusers_log.text
    mask = np.zeros((12, 16))
    mask[:, 8:] = 1
    assert prepare_mask(pipeline, mask, image)[0, 0].tolist() == [[False] * 4 + [True] * 4] * 8


def test_no_note_for_the_right_size(pipeline, picture, diffusers_log):
    prepare_images(pipeline, picture())
    assert not diffusers_log.text


def test_a_network_of_any_size_takes_the_image_as_it_is(tiny_unet, picture):
    pipeline = GaussianDiffusionPipeline(tiny_unet(sample_size=None), DDPMScheduler())
    assert prepare_images(pipeline, picture(size=(12, 16))).shape == (1, 1, 16, 12)


def test_kinds_of_masks(pipeline, picture):
    mask = np.arange(64).reshape(8, 8) % 3 == 0
    expected = torch.from_numpy(mask)[None, None]
    white = Image.fromarray(mask.astype(np.uint8) * 255)
    for same in (mask, mask.astype(int), mask.astype(float), white, white.convert("1"), torch.from_numpy(mask)[None]):
        assert torch.equal(prepare_mask(pipeline, same, picture()), expected)
    assert prepare_mask(pipeline, [mask, ~mask], picture()).shape == (2, 1, 8, 8)
    assert prepare_mask(pipeline, mask, [picture(), picture()]).shape == (1, 1, 8, 8)


def test_files_of_any_mode(tmp_path, picture):
    picture(mode="RGB").save(tmp_path / "colour.png")
    assert read_image(tmp_path / "colour.png", 1).mode == "L" and read_image(tmp_path / "colour.png", 3).mode == "RGB"


def test_files_are_read_as_data_sets_are(tmp_path, diffusers_log):
    """Upright, in 8 bits, and on white where they are transparent, which is said."""
    path = tmp_path / "a.png"
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)
    image = Image.fromarray(pixels.astype(np.uint8))
    exif = image.getexif()
    exif[0x0112] = 3  # upside down
    image.save(path, exif=exif)
    assert np.array_equal(read_image(path, 1), pixels[::-1, ::-1])
    Image.fromarray(pixels * 1040).save(path)
    assert np.array_equal(read_image(path, 1), pixels * 1040 >> 8)
    assert not diffusers_log.text
    Image.new("RGBA", (8, 8), (90, 90, 90, 0)).save(path)
    assert np.asarray(read_image(path, 3)).min() == 255 == read_image(path, 1).getextrema()[0]
    assert f"{path} has transparent pixels, which are composed on white" in diffusers_log.text
    assert read_image(path, 4).getpixel((0, 0)) == (90, 90, 90, 0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tiff", np.zeros((8, 8), np.float32), "a.tiff cannot be read: it has the PIL mode 'F' of 32-bit floats"),
        ("a.tiff", np.zeros((8, 8), np.int32), "a.tiff cannot be read: it has the PIL mode 'I' of 32-bit integers"),
        ("a.png", np.full((8, 8), 4095, np.uint16), "a.png cannot be read: its 16-bit values go up to 4095 of 65535"),
        ("a.png", b"nothing", "a.png cannot be read: cannot identify image file"),
        ("a.png", None, "a.png cannot be read: .*No such file"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, content, message):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        Image.fromarray(content).save(tmp_path / name)
    with pytest.raises(InputError, match=message):
        read_image(tmp_path / name, 1)


def test_channels_that_pictures_do_not_have(tmp_path):
    with pytest.raises(InputError, match="images of 6 channels, and picture files have 1, 3, 4"):
        read_image(tmp_path / "a.png", 6)


def test_truncated_files_and_bombs_are_named(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    with pytest.raises(InputError, match="a.png cannot be read: image file is truncated"):
        read_image(path, 1)
    path.write_bytes(whole)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match=r"a.png cannot be read: Image size \(4096 pixels\) exceeds limit"):
        read_image(path, 1)


@pytest.mark.parametrize(
    ("image", "advice"),
    [
        (Image.new("F", (8, 8)), "PIL mode 'F' and must be 'L': scale its values to 0 .. 255 first"),
        (Image.new("I;16", (8, 8)), "PIL mode 'I;16' and must be 'L': scale its values to 0 .. 255 first"),
        (
            Image.new("LA", (8, 8)),
            r"must be 'L': ddpm_hf.image_files.in_eight_bits\(image, 'L'\), which composes it on white",
        ),
    ],
)
def test_advice_for_pictures_does_no_harm(pipeline, image, advice):
    with pytest.raises(ValueError, match=advice):
        prepare_images(pipeline, image)


@pytest.mark.parametrize(
    "image, message",
    [
        (Image.new("RGB", (8, 8)), "PIL mode 'RGB' and must be 'L': image.convert"),
        (np.zeros((8, 8, 3)), r"image of the shape \(8, 8, 3\) has 3 channels and must have 1"),
        (torch.zeros(2, 3, 8, 8), r"\(2, 3, 8, 8\) has 3 channels and must have 1"),
        (torch.zeros(8, 8), r"has the shape \(8, 8\)"),
        (np.full((8, 8), 255, dtype=np.uint8), "torch.uint8 values from 255 to 255; .* divide levels by 255"),
        (np.full((8, 8), -0.5), "values from -0.5 to -0.5"),
        (np.full((8, 8), np.nan), "values from nan"),
        ("image.png", "image is a str; pass PIL images"),
        ([], "image is an empty list"),
    ],
)
def test_bad_images(pipeline, image, message):
    with pytest.raises(ValueError, match=message):
        prepare_images(pipeline, image)


@pytest.mark.parametrize(
    "mask, message",
    [
        (np.zeros((8, 4)), r"image's own size \(height x width\): 8x8, 8x8, 8x8; got 8x4"),
        ([np.zeros((8, 8))] * 2, "one for each image.* 8x8, 8x8, 8x8; got 8x8, 8x8"),
        (np.full((8, 8), 0.5), r"mask_image has the value 0.5; it must be 0 \(keep\) or 1 \(paint anew\)"),
        (Image.new("L", (8, 8), 128), "has the value 0.502"),
        (Image.new("RGB", (8, 8)), "mask_image is of the PIL mode 'RGB' and must be 'L'"),
        (np.zeros((8, 8, 3)), r"mask_image of the shape \(8, 8, 3\) has 3 channels and must have 1"),
    ],
)
def test_bad_masks(pipeline, picture, mask, message):
    with pytest.raises(ValueError, match=message):
        prepare_mask(pipeline, mask, [picture()] * 3)


def test_schedulers_that_cannot_edit():
    check_scheduler(GaussianDiffusionScheduler(solver_order=2))
    with pytest.raises(ValueError, match=r"solver_order=2 uses the step before"):
        check_scheduler(GaussianDiffusionScheduler(solver_order=2), first_order=True)
    with pytest.raises(ValueError, match="DPMSolverMultistepScheduler cannot edit: pass a GaussianDiffusionScheduler"):
        check_scheduler(DPMSolverMultistepScheduler())
