"""The folder of a converted checkpoint: what samples it, what it was, and a card."""

import hashlib
from pathlib import Path

from ddpm_hf.converters.processes import PROCESS_FILE, ConvertedNetwork
from ddpm_hf.files import moved_in_whole
from ddpm_hf.hub.card_sections import conversion_text
from ddpm_hf.hub.cards import save_card, write_card
from ddpm_hf.hub.model_files import CONFIG_FILE, INDEX_FILE
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
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
    with moved_in_whole(output_dir, last=_last_file(result)) as aside:
        result.save_pretrained(aside)
        CONVERSION.write(aside, report)
        if isinstance(result, GaussianDiffusionPipeline):
            write_card(aside, output_dir.name)
        else:
            save_card(aside, f"# {output_dir.name}\n\n{conversion_text(report)}")


def _last_file(result):
    if isinstance(result, GaussianDiffusionPipeline):
        return INDEX_FILE
    return PROCESS_FILE if isinstance(result, ConvertedNetwork) else CONFIG_FILE
