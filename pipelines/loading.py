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
    def from_pipe(cls, pipeline, **kwargs):
        """A pipeline of this class that shares the components of another.

        Components may be of any class that the constructor takes; diffusers' method requires the annotated class.
        """
        wanted = inspect.signature(cls.__init__).parameters
        shared = {name: component for name, component in pipeline.components.items() if name in wanted}
        return super().from_pipe(pipeline, **shared | kwargs)

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
