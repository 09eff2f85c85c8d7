"""The key of a config that holds ours; stock classes of diffusers keep keys that begin with an underscore."""

PACKED_KEY = "_ddpm_hf"
