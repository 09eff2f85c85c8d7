"""How a process of the tests is kept from importing the package, as where nothing of it is installed."""

# The beginning of a script.
NO_PACKAGE = """
import sys

class NoPackage:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ddpm_hf":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoPackage())
"""

# A script that runs the network of a converted folder: `python SCRIPT FOLDER INPUTS OUTPUT`, with the arguments of the
# network in the file INPUTS. A classifier is a network alone, all others are in pipelines.
RUN_CONVERTED = (
    NO_PACKAGE
    + """
from pathlib import Path

import torch
from diffusers import AutoModel, DiffusionPipeline

folder, inputs, output = sys.argv[1:]
if (Path(folder) / "model_index.json").exists():
    network = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True).unet
else:
    network = AutoModel.from_pretrained(folder, trust_remote_code=True)
with torch.no_grad():
    made = network(*torch.load(inputs, weights_only=True))
torch.save(getattr(made, "sample", made), output)
"""
)
