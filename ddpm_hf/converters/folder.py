"""The folder of a converted checkpoint: what samples it, what it was, and a card."""

import hashlib
import json
from pathlib import Path

from ddpm_hf import __version__
from ddpm_hf.files import moved_in_whole
from ddpm_hf.hub.card_sections import conversion_text
from ddpm_hf.hub.cards import save_card, write_card
from ddpm_hf.hub.model_files import CONFIG_FILE, INDEX_FILE
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.portable.pipeline_file import assemble
from ddpm_hf.reports.report_files import CONVERSION


def report_of(checkpoint, conversion, kind, check=None):
    """What a converted checkpoint was: the values of `conversion.json`."""
    report = {
        "checkpoint": Path(checkpoint).name,
        "sha256": _digest(checkpoint),
        "family": conversion.family,
        "weights": kind,
        "network": type(conversion.network).__name__,
        "parameters": sum(each.numel() for each in conversion.network.parameters()),
        "process": conversion.process,
        "notes": list(conversion.notes),
    }
    return report if check is None else report | {"check": check.values()}


def _digest(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def write_converted(result, report, output_dir):
    """Writes what `sampled` gave, its report and a card into a new folder, all or nothing."""
    output_dir = Path(output_dir)
    samples = isinstance(result, GaussianDiffusionPipeline)
    with moved_in_whole(output_dir, last=INDEX_FILE if samples else CONFIG_FILE) as aside:
        result.save_pretrained(aside)
        CONVERSION.write(aside, report)
        if samples:
            write_card(aside, output_dir.name)
        else:
            _write_code(aside, result)
            save_card(
                aside, f"# {output_dir.name}\n\n{conversion_text(report)}{LOADING.format(type(result).__name__)}"
            )


# A network alone has no pipeline whose code travels, and diffusers looks for its code under `auto_map`.
CODE_MODULE = "network"
CODE_HEADER = f'''"""The code of the network in this folder, bundled from ddpm_hf {__version__}.

It needs only torch, numpy and diffusers, which run it in

    AutoModel.from_pretrained(FOLDER, trust_remote_code=True)

SPDX-License-Identifier: Apache-2.0
"""

'''
LOADING = """

```python
from diffusers import AutoModel

network = AutoModel.from_pretrained("FOLDER", trust_remote_code=True)  # or {}.from_pretrained of ddpm_hf
```
"""


def _write_code(folder, network):
    """Writes the class of a network into its folder, and where it is into its config."""
    source = CODE_HEADER + assemble(type(network).__module__)
    (folder / f"{CODE_MODULE}.py").write_text(source, encoding="utf-8")
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoModel": f"{CODE_MODULE}.{type(network).__name__}"}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
