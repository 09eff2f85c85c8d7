"""How a pipeline comes to be: from what `portable_pipeline` writes, or from the components of another."""

import inspect

from ddpm_hf.pipelines.portable_pipeline import OWN_CLASS, OWN_NETWORKS


class PortableLoadingMixin:
    """Loads what [`PortableSavingMixin`] saves; comes before [`DiffusionPipeline`] among the bases."""

    @classmethod
    def from_pipe(cls, pipeline, **kwargs):
        """A pipeline of this class that shares the components of another.

        Of any class that the constructor takes: diffusers' own shares networks of just the annotated class.
        """
        wanted = inspect.signature(cls.__init__).parameters
        shared = {name: component for name, component in pipeline.components.items() if name in wanted}
        return super().from_pipe(pipeline, **shared | kwargs)

    @classmethod
    def _dict_from_json_file(cls, json_file):
        """The index: an own class is this one, and no reason to ask for trust in the code beside it."""
        index = super()._dict_from_json_file(json_file)
        if index.get("_class_name") == OWN_CLASS:
            index["_class_name"] = cls.__name__
        return index

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        """Reads the index as `to_json_string` writes it."""
        own = {
            name: [OWN_NETWORKS[part[1]].__module__, part[1]]
            for name, part in config_dict.items()
            if isinstance(part, (list, tuple)) and part[0] is None and part[1] in OWN_NETWORKS
        }
        return super().extract_init_dict(config_dict | own, **kwargs)


def is_copy(component, own_class):
    """Whether it is of this class as the code of a repository has it, or the package, where this code is not from."""
    return type(component).__name__ == own_class.__name__ and not isinstance(component, own_class)
