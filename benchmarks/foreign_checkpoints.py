"""Errors of converted checkpoints against the outputs of the codes that they are of.

python benchmarks/foreign_checkpoints.py REFERENCE

REFERENCE is a folder with `unets.npz`, of inputs and outputs, and `unets/`, of checkpoints (.pt) with their options
(.json). Each is converted, its network compared in float32 and in float64, and saved and loaded again, with this
package and without it, from the code in its folder. Errors are relative to the largest output.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ddpm_hf import GaussianDiffusionPipeline, NoisyImageClassifier
from ddpm_hf.converters import convert_checkpoint

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from no_package import RUN_CONVERTED


def main():
    folder = Path(sys.argv[1])
    arrays = np.load(folder / "unets.npz")
    print("| checkpoint | class | float32 | float64 | saved and loaded | without the package | raw weights |")
    print("|---|---|---|---|---|---|---|")
    for checkpoint in sorted((folder / "unets").glob("*.pt")):
        print(row(checkpoint, arrays), flush=True)


def row(checkpoint, arrays):
    name, options = checkpoint.stem, checkpoint.with_suffix(".json")
    with tempfile.TemporaryDirectory() as place:
        converted = convert_checkpoint(checkpoint, options, Path(place) / "new")
        network = converted if isinstance(converted, NoisyImageClassifier) else converted.unet
        loaded = load(converted, Path(place) / "new")
        cells = [
            error(arrays, name, output_of(network, arrays, name)),
            error(arrays, name, output_of(network.double(), arrays, name), "output_float64"),
            error(arrays, name, output_of(loaded, arrays, name)),
            without_package(arrays, name, Path(place)),
            other_weights(checkpoint, options, arrays, name),
        ]
    cells = ("" if cell is None else f"{cell:.1e}" for cell in cells)
    return f"| {name} | {type(network).__name__} | {' | '.join(cells)} |"


def load(converted, folder):
    if isinstance(converted, GaussianDiffusionPipeline):
        return GaussianDiffusionPipeline.from_pretrained(folder).unet
    return NoisyImageClassifier.from_pretrained(folder)


def inputs_of(arrays, name, dtype):
    x = torch.from_numpy(arrays[f"{name}/sample"]).to(dtype)
    if f"{name}/low_res" in arrays:
        low = torch.from_numpy(arrays[f"{name}/low_res"]).to(dtype)
        x = torch.cat([x, F.interpolate(low, x.shape[-2:], mode="bilinear")], dim=1)
    labels = [torch.from_numpy(arrays[f"{name}/labels"])] if f"{name}/labels" in arrays else []
    return x, torch.from_numpy(arrays[f"{name}/timesteps"]), *labels


@torch.no_grad()
def output_of(network, arrays, name):
    output = network(*inputs_of(arrays, name, network.dtype))
    return getattr(output, "sample", output)


def error(arrays, name, output, key="output"):
    expected = torch.from_numpy(arrays[f"{name}/{key}"])
    return ((output - expected).abs().max() / expected.abs().max()).item()


def without_package(arrays, name, place):
    torch.save(inputs_of(arrays, name, torch.float32), place / "new" / "inputs.pt")
    (place / "process.py").write_text(RUN_CONVERTED, encoding="utf-8")
    subprocess.run([sys.executable, "process.py", "new"], cwd=place, check=True, capture_output=True)
    return error(arrays, name, torch.load(place / "new" / "output.pt", weights_only=True))


def other_weights(checkpoint, options, arrays, name):
    """The error of the raw weights against their own output, where the checkpoint has both."""
    if f"{name}/output_raw_weights" not in arrays:
        return None
    network = convert_checkpoint(checkpoint, options, weights="raw").unet
    return error(arrays, name, output_of(network, arrays, name), "output_raw_weights")


if __name__ == "__main__":
    main()
