"""The plan of a run, measured before it begins."""

import pytest
import torch
from accelerate.utils import DistributedType
from diffusers.utils.outputs import BaseOutput

from ddpm_hf import GaussianDiffusionScheduler
from ddpm_hf.data import open_images
from ddpm_hf.errors import InputError
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.batch_size import largest_batch_size, with_fitting_batch
from ddpm_hf.training.dry_run import describe_plan, flops_per_image, saved_activations
from ddpm_hf.training.train import main, train


@pytest.fixture
def options(tmp_path, image_folder, tiny_pipeline):
    return {
        **{"dataset": image_folder, "init_from": tiny_pipeline, "output_dir": str(tmp_path / "run")},
        **{
            "max_train_steps": 6,
            "batch_size": 4,
            "gradient_accumulation_steps": 2,
            "num_samples": 1,
            "sample_steps": 2,
        },
    }


def test_it_says_the_plan_and_writes_nothing(options, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    main(
        [f"--{name}={value}" for name, value in options.items()]
        + ["--dry_run", "--ema=power", "--eval_every=2", "--eval_split=x"]
    )
    said = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    for part in (
        "update   8 images: 4 at a time, 2 times, on 1 process(es)",
        "length   6 updates, 48 images, 3.0 passes over the data",
        "data     16 images of 1x8x8",
        "GFLOPs per image, forward and backward",
        "images per second (median of some updates on cpu)",
        "bits_per_dim.csv",
        "ema_snapshots of",
        str(tmp_path / "run"),
    ):
        assert part in said


class OneConvolution(torch.nn.Conv2d):
    """A network whose work can be counted by hand."""

    config = {"in_channels": 1, "sample_size": 8}  # noqa: RUF012

    def __init__(self):
        super().__init__(1, 1, 3, padding=1)

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        output = super().forward(sample)
        return BaseOutput(sample=output) if return_dict else (output,)


def test_floating_point_operations_are_those_of_the_formula(make_accelerator):
    args = TrainingArguments(unet="fashion_mnist", max_train_steps=1)
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    flops = flops_per_image(
        args, make_accelerator(), OneConvolution(), GaussianDiffusionScheduler(), {"images": images}
    )
    # 9 products and sums for each pixel, and as many again for the gradient of the weights; the input asks for none.
    assert flops == 2 * (2 * 9 * 64)


def test_activations_are_what_the_backward_pass_keeps():
    first, second = torch.nn.Linear(4, 6), torch.nn.Linear(6, 5)
    model = torch.nn.Sequential(first, torch.nn.Sigmoid(), second)
    with saved_activations(model) as sizes:
        loss = model(torch.randn(3, 4)).sum()
    assert sum(sizes.values()) == 4 * (3 * 4 + 3 * 6)  # the input, and what the sigmoid gives, which is kept once
    loss.backward()


def test_batches_are_halved_until_they_fit():
    tried = []

    def fits_up_to(limit):
        def try_update(size):
            tried.append(size)
            if size > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        return try_update

    assert largest_batch_size(fits_up_to(10), 48) == 6
    assert tried == [48, 24, 12, 6]
    assert largest_batch_size(fits_up_to(10), 8) == 8
    assert largest_batch_size(fits_up_to(10), 45) == 5  # 45, 15, 5: whole numbers of them make 45
    with pytest.raises(ZeroDivisionError):
        largest_batch_size(lambda size: 1 / 0, 8)


@pytest.fixture
def narrow_unet(tiny_unet):
    """A network for which two images at a time are all that there is memory for."""
    unet = tiny_unet()

    def run_out(module, inputs):
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    unet.register_forward_pre_hook(run_out)
    return unet


def test_the_update_stays_what_it_is(options, narrow_unet, make_accelerator, capsys):
    args = TrainingArguments(**options, find_batch_size=True)
    accelerator = make_accelerator(gradient_accumulation_steps=2)
    source, scheduler = open_images(args, 8), GaussianDiffusionScheduler()
    state = torch.get_rng_state()
    weights = [p.detach().clone() for p in narrow_unet.parameters()]
    fitted = with_fitting_batch(args, accelerator, narrow_unet, scheduler, source)
    assert (fitted.batch_size, fitted.gradient_accumulation_steps) == (2, 4)
    assert accelerator.gradient_accumulation_steps == 4
    assert "batch_size 2 fits into memory (4 does not)" in capsys.readouterr().out
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(weights, narrow_unet.parameters(), strict=True))


def test_not_even_one_image(options, narrow_unet, make_accelerator):
    narrow_unet.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("X out of memory.")))
    args = TrainingArguments(**options, find_batch_size=True)
    with pytest.raises(InputError, match="Not even one image at a time fits into the memory of cpu: choose a smaller"):
        with_fitting_batch(args, make_accelerator(), narrow_unet, GaussianDiffusionScheduler(), open_images(args, 8))


def test_of_a_sharded_network_nothing_can_be_tried(options, tiny_unet, make_accelerator):
    args, accelerator, scheduler = TrainingArguments(**options), make_accelerator(), GaussianDiffusionScheduler()
    accelerator.state.distributed_type = DistributedType.FSDP
    tried = (args, accelerator, tiny_unet(), scheduler, open_images(args, 8))
    with pytest.raises(
        InputError, match="dry_run tries the whole network on each device, which FSDP .*: to know all but"
    ):
        describe_plan(*tried, 6)
    with pytest.raises(InputError, match="find_batch_size tries the whole network on each device.*give --batch_size"):
        with_fitting_batch(*tried)


@pytest.mark.slow
def test_a_batch_that_fits_trains_what_it_would_have_trained(options, tmp_path):
    plain = train(TrainingArguments(**options))
    found = train(TrainingArguments(**options | {"output_dir": str(tmp_path / "found"), "find_batch_size": True}))
    name = "unet/diffusion_pytorch_model.safetensors"
    assert (plain / name).read_bytes() == (found / name).read_bytes()
