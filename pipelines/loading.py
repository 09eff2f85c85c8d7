"""Loading of pipelines: from the files of `portable_pipeline`, or from another pipeline's components."""

import inspect

from ddpm_hf.pipelines.portable_pipeline import OWN_FILE, OWN_PARTS

# The stock pipeline of models of text and latents, which has parts that ours does not know.
STABLE_DIFFUSION = "StableDiffusionPipeline"
# How the names of all pipelines of ours begin.
OWN_PREFIX = "GaussianDiffusion"


class PortableLoadingMixin:
    """Loads what [`PortableSavingMixin`] saves; precedes [`DiffusionPipeline`] in the bases."""

    @classmethod
    def from_pipe(cls, pipeline, dtype=None, torch_dtype=None, **kwargs):
        """A pipeline of this class that shares the components of another, each in its own precision.

        diffusers' method casts them to float32 unless it is told otherwise, and so those of the other pipeline too. It
        also requires the annotated classes, where these components may be of any class that the constructor takes.

        Args:
            dtype (`torch.dtype`, *optional*): a precision for all components, in both pipelines; `torch_dtype` is its
                older name.
            kwargs: components instead of those of the other pipeline.
        """
        wanted = inspect.signature(cls.__init__).parameters
        shared = {name: component for name, component in pipeline.components.items() if name in wanted}
        made = cls(**shared | kwargs)
        if pipeline.name_or_path is not None:
            made.register_to_config(_name_or_path=pipeline.name_or_path)
        dtype = dtype or torch_dtype
        return made if dtype is None else made.to(dtype=dtype)

    @classmethod
    def _dict_from_json_file(cls, json_file):
        """The index, with our own class replaced by this one, so that loading needs no `trust_remote_code`."""
        index = super()._dict_from_json_file(json_file)
        name = index.get("_class_name")
        if isinstance(name, list) and name[0] == OWN_FILE and name[1].startswith(OWN_PREFIX):
            index["_class_name"] = cls.__name__
        if name == STABLE_DIFFUSION:
            parts = inspect.signature(cls.__init__).parameters
            index = {key: value for key, value in index.items() if key in parts or key.startswith("_")}
        return index

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        """Reads an index written by `to_json_string`."""
        own = {
            name: [OWN_PARTS[part[1]].__module__, part[1]]
            for name, part in config_dict.items()
            if isinstance(part, (list, tuple)) and part[0] is None and part[1] in OWN_PARTS
        }
        return super().extract_init_dict(config_dict | own, **kwargs)
