"""The names that options of a training are chosen from; the command line reads them without waiting for torch."""

from ddpm_hf.schedulers.choices import COVARIANCE_HEADS

# The last three train the variance head of the same name, on a trained network.
OBJECTIVES = ("simple", "hybrid", "vlb", *COVARIANCE_HEADS)
TIMESTEP_SAMPLINGS = ("uniform", "low_discrepancy", "importance")
PROCESSES = ("ddpm", "vp", "sub_vp", "ve", "edm")
