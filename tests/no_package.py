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

# A script that runs the networks of converted folders: `python SCRIPT FOLDER ...`, with the arguments of each network in
# the file `inputs.pt` of its folder, where `output.pt` is written. A classifier is a network alone, all others are in
# pipelines.
RUN_CONVERTED = (
    NO_PACKAGE
    + """
from pathlib import Path

import torch
from diffusers import AutoModel, DiffusionPipeline

for folder in sys.argv[1:]:
    if (Path(folder) / "model_index.json").exists():
        network = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True).unet
    else:
        network = AutoModel.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        made = network(*torch.load(Path(folder) / "inputs.pt", weights_only=True))
    torch.save(getattr(made, "sample", made), Path(folder) / "output.pt")
"""
)
