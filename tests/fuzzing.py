"""Shared parts of the fuzz tests of functions and of verbs."""

import math
import os
import traceback
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import ddpm_hf
import ddpm_hf.pipelines
import ddpm_hf.training

# `FUZZ_EXAMPLES=1000 pytest -m slow tests/test_fuzz*.py --hypothesis-seed 1` tries other values, and so many.
EXAMPLES = os.environ.get("FUZZ_EXAMPLES")
FUZZED = settings(
    max_examples=int(EXAMPLES or 200),
    deadline=None,
    derandomize=EXAMPLES is None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
STRANGE = [math.nan, math.inf, -math.inf, -1, 0, 1, 2, 0.5, -0.0, 1e-30, 1e30, 10**6]
numbers = st.sampled_from(STRANGE) | st.floats(-2, 3) | st.integers(-3, 1200)
OUR_FOLDERS = [Path(package.__file__).parent for package in (ddpm_hf, ddpm_hf.pipelines, ddpm_hf.training)]


def mostly(good, bad):
    """Values that are right three times out of four, so that several together get past the first check."""
    return st.integers(0, 3).flatmap(lambda i: bad if i == 3 else good)


def check_is_ours(error):
    """Passes for a sentence that our code says: one of torch or numpy speaks of what the user did not write."""
    *_, last = traceback.extract_tb(error.__traceback__)
    assert any(folder in Path(last.filename).parents for folder in OUR_FOLDERS), (last, error)
    assert len(str(error)) > 20, error
