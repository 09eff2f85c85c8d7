from collections import deque

import pytest
import torch

from ddpm_hf.training.timestep_samplers import (
    ImportanceTimesteps,
    LowDiscrepancyTimesteps,
    UniformTimesteps,
    shifted_grid,
)

CPU = torch.device("cpu")


def alone(tensors):
    """The result of `accelerator.gather` with one process."""
    return tensors


def importance(steps, **options):
    return ImportanceTimesteps(steps, CPU, alone, **options)


def test_uniform():
    torch.manual_seed(0)
    timesteps, weights = UniformTimesteps(4, CPU).sample(4000, 0)
    counts = torch.bincount(timesteps, minlength=4)
    assert len(counts) == 4
    assert (counts - 1000).abs().max() < 5 * (4000 * 0.25 * 0.75) ** 0.5
    assert torch.equal(weights, torch.ones(4000))


# ---------------------------------------------------------------------------------------------------------------------
# Low discrepancy


@pytest.mark.parametrize(("steps", "batch_size", "batches"), [(1000, 8, 1), (1000, 5, 4), (12, 6, 2), (4, 16, 1)])
def test_no_part_of_time_is_missed(steps, batch_size, batches):
    """All images of an update: with N dividing T one in each interval of T/N, otherwise as many as fit evenly."""
    sampler = LowDiscrepancyTimesteps(steps, CPU, 0, batches)
    images = batch_size * batches
    for update in range(20):
        own = [sampler.sample(batch_size, update * batches + batch)[0] for batch in range(batches)]
        per_interval = torch.bincount(torch.cat(own) * images // steps, minlength=images)
        expected = torch.ones(images) if steps >= images else torch.tensor([images / steps, 0, 0, 0]).repeat(steps)
        assert torch.equal(per_interval.float(), expected)
        for timesteps in own:  # and each batch is spread too
            gaps = timesteps.sort().values.diff()
            assert gaps.max() <= -(-steps // batch_size)


def test_each_image_has_a_uniform_timestep():
    """Over all offsets, which are equally likely, every place gets each timestep equally often."""
    steps, images = 10, 4
    timesteps = torch.stack([shifted_grid(torch.arange(images), o, steps, images) for o in range(steps * images)])
    for place in range(images):
        assert torch.bincount(timesteps[:, place]).tolist() == [images] * steps


def test_the_offset_is_that_of_the_update():
    """The same timesteps for the update, however it is split into batches; others for the next."""
    one, two = (LowDiscrepancyTimesteps(1000, CPU, 3, batches) for batches in (1, 2))
    updates = [set(one.sample(8, update)[0].tolist()) for update in (5, 6)]
    halves = [two.sample(4, place)[0].tolist() for place in (10, 11)]
    assert {*halves[0], *halves[1]} == updates[0] != updates[1]


def test_it_estimates_with_less_noise_than_uniform():
    torch.manual_seed(0)
    loss = torch.linspace(0, 1, 1000) ** 2

    def deviation(sampler):
        return torch.stack([loss[sampler.sample(16, place)[0]].mean() for place in range(300)]).std()

    # In theory 1 / (16 sqrt(12)) against sqrt(4 / 45) / sqrt(16).
    assert deviation(LowDiscrepancyTimesteps(1000, CPU, 0)) < 0.3 * deviation(UniformTimesteps(1000, CPU))


# ---------------------------------------------------------------------------------------------------------------------
# Importance


def warmed_up(losses, **options):
    """A sampler that has seen `losses`, (T,), as often as it remembers."""
    sampler = importance(len(losses), **options)
    for _ in range(sampler.history_size):
        sampler.update(torch.arange(len(losses)), losses)
    return sampler


def test_until_every_timestep_is_known_it_is_uniform():
    sampler = importance(4)
    for _ in range(10):
        sampler.update(torch.tensor([0, 1, 2]), torch.tensor([1.0, 2.0, 3.0]))
    for _ in range(9):
        sampler.update(torch.tensor([3]), torch.tensor([4.0]))
    assert torch.equal(sampler.probabilities(), torch.full((4,), 0.25))
    assert torch.equal(sampler.sample(8, 0)[1], torch.ones(8))
    sampler.update(torch.tensor([3]), torch.tensor([4.0]))
    torch.testing.assert_close(sampler.probabilities(), 0.999 * torch.tensor([0.1, 0.2, 0.3, 0.4]) + 0.001 / 4)


def test_its_expectation_is_that_of_uniform_sampling():
    """The sum of p_t w_t loss_t over t, with the weights of the sampler, is the mean of the losses."""
    torch.manual_seed(0)
    losses = torch.rand(50) * torch.logspace(-3, 3, 50)
    sampler = warmed_up(losses * torch.rand(50))  # what it remembers is not what it is used on
    p = sampler.probabilities()
    assert p.min() < 1e-4 and p.max() > 0.1
    timesteps, weights = sampler.sample(20_000, 0)
    given = torch.full((50,), torch.nan).scatter(0, timesteps, weights)
    drawn = given.isfinite()
    torch.testing.assert_close(given[drawn], 1 / (50 * p[drawn]))
    given[~drawn] = 1 / (50 * p[~drawn])
    torch.testing.assert_close((p * given * losses).sum(), losses.mean())
    # The timesteps are drawn by p, so the counts are multinomial.
    counts, expected = torch.bincount(timesteps, minlength=50), 20_000 * p
    assert ((counts - expected).abs() < 5 * (expected * (1 - p)).sqrt() + 5).all()


def test_its_estimate_has_less_noise_than_that_of_uniform_sampling():
    """With L_t known the weighted loss is nearly constant (Nichol & Dhariwal 2021, section 3.3)."""
    torch.manual_seed(0)
    losses = torch.logspace(-3, 3, 50)
    timesteps, weights = warmed_up(losses).sample(2000, 0)
    uniform, _ = UniformTimesteps(50, CPU).sample(2000, 0)
    assert (weights * losses[timesteps]).std() < 0.05 * losses[uniform].std()


def test_it_remembers_the_newest_losses_as_the_paper_s_code_does():
    """Against a loop over the losses, one deque for each timestep; batches repeat timesteps more often than there are slots."""
    torch.manual_seed(0)
    sampler = importance(5, history_size=3)
    histories = [deque(maxlen=3) for _ in range(5)]
    for batch_size in (1, 2, 7, 40, 3, 16):
        timesteps, losses = torch.randint(5, (batch_size,)), torch.rand(batch_size)
        sampler.update(timesteps, losses)
        for t, loss in zip(timesteps.tolist(), losses.tolist(), strict=True):
            histories[t].append(loss)
    assert [sorted(row) for row in sampler.history.tolist()] == [sorted(h) for h in histories]


def test_its_state_is_its_history():
    first = warmed_up(torch.tensor([1.0, 2.0, 5.0]))
    second = importance(3)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.probabilities(), second.probabilities())
    assert not torch.equal(second.probabilities(), importance(3).probabilities())


def test_processes_that_gather_have_the_same_history():
    parts = [(torch.tensor([0, 1]), torch.tensor([1.0, 2.0])), (torch.tensor([1, 1]), torch.tensor([3.0, 4.0]))]
    gathered = tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
    samplers = [ImportanceTimesteps(2, CPU, lambda tensors: gathered) for _ in parts]
    for sampler, part in zip(samplers, parts, strict=True):
        sampler.update(*part)
    assert torch.equal(samplers[0].history, samplers[1].history)
    assert samplers[0].counts.tolist() == [1, 3]
