"""The history is the x0_hat of the step that arrived here with this batch, whatever ran before."""

import pytest
import torch
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionScheduler

SECOND_ORDER = [{"solver_order": 2}, {"solver_order": 1, "corrector": True}, {"solver_order": 2, "corrector": True}]
with_history = pytest.mark.parametrize("options", SECOND_ORDER)
# A timestep on the host, and one for each sample, which the host may not read where it is on a device.
FORMS = {"int": int, "0-d": torch.tensor, "one each": lambda t: torch.full((2,), int(t))}
in_each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@pytest.fixture
def x_T():
    return torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def make(**options):
    scheduler = GaussianDiffusionScheduler(eta=0.0, clip_sample=False, **options)
    scheduler.set_timesteps(6)
    return scheduler


def run(scheduler, sample, form=int, timesteps=None, scale=0.3):
    for t in scheduler.timesteps.tolist() if timesteps is None else timesteps:
        sample = scheduler.step((scale * sample).tanh(), form(t), sample).prev_sample
    return sample


@with_history
@in_each_form
def test_a_second_run_does_not_go_on_from_the_first(x_T, options, form):
    scheduler = make(**options)
    first = run(scheduler, x_T, form)
    assert_close(run(scheduler, x_T, form), first, rtol=0, atol=0)
    run(scheduler, 5 * x_T, form, scale=2.0)
    assert_close(run(scheduler, x_T, form), first, rtol=0, atol=0)
    assert_close(run(make(**options), x_T), first)


@with_history
@in_each_form
def test_nothing_is_left_of_a_run_that_was_not_finite(x_T, options, form):
    scheduler = make(**options)
    run(scheduler, torch.full_like(x_T, torch.nan), form)
    assert_close(run(scheduler, x_T, form), run(make(**options), x_T))


@with_history
def test_a_run_may_follow_with_another_batch(x_T, options):
    scheduler = make(**options)
    whole = run(scheduler, x_T)
    assert_close(run(scheduler, x_T[:1]), whole[:1])


@with_history
def test_a_batch_that_changes_on_the_way_is_named(x_T, options):
    scheduler = make(**options)
    t, s = scheduler.timesteps[:2].tolist()
    x_s = scheduler.step(x_T, t, x_T).prev_sample
    with pytest.raises(
        ValueError, match=r"of samples of shape \(2, 1, 4, 4\), this one is of \(1, 1, 4, 4\).*set_timesteps"
    ):
        scheduler.step(x_s[:1], s, x_s[:1])


@with_history
def test_a_step_back_in_time_has_no_history(x_T, options):
    """The history does not count after a jump of RePaint, where noise takes x_s back to x_t."""
    scheduler = make(**options)
    t, s = scheduler.timesteps[:2].tolist()
    x_s = run(scheduler, x_T, timesteps=[t, s])
    again = scheduler.step(0.3 * x_s, t, x_s).prev_sample
    assert_close(again, make(**options).step(0.3 * x_s, t, x_s).prev_sample, rtol=0, atol=0)


@with_history
def test_history_counts_sample_by_sample(x_T, options):
    """One of two samples with different timesteps continues, and the other begins anew."""
    scheduler = make(**options)
    t, s, r = scheduler.timesteps[:3].tolist()
    x_s = scheduler.step((0.3 * x_T).tanh(), t, x_T).prev_sample
    both = scheduler.step((0.3 * x_s).tanh(), torch.tensor([s, r]), x_s).prev_sample
    going_on = run(make(**options), x_T[:1], timesteps=[t, s])
    anew = make(**options).step((0.3 * x_s[1:]).tanh(), r, x_s[1:]).prev_sample
    assert_close(both, torch.cat([going_on, anew]))
