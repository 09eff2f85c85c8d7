"""A check that both other trainings share: a precision that was measured trains as if it was named."""

import torch
import yaml
from accelerate.state import AcceleratorState
from huggingface_hub import constants
from safetensors.torch import load_file

from ddpm_hf.training import precision_choice

# What a gain must be, and the precision that is chosen then, on every processor.
CHOSEN = [(float("inf"), "no"), (0.0, "bf16")]


def check_measured_precision(train, options, weights, worthwhile, precision, monkeypatch, capsys):
    """Trains with the precision, and with `auto` where it must choose it, and then goes on.

    Args:
        train: trains by keyword arguments, and gives the folder.
        options (`dict`): of the training.
        weights (`str`): the file of the trained weights in the folder.
    """
    run = options["output_dir"]
    monkeypatch.setattr(constants, "HF_HOME", f"{run}_home")
    monkeypatch.setattr(precision_choice, "WORTHWHILE_GAIN", worthwhile)
    trained = []
    for name in (precision, "auto"):
        AcceleratorState._reset_state()  # two runs of two precisions are of two processes elsewhere
        folder = train(**options | {"output_dir": f"{run}_{name}", "mixed_precision": name})
        trained.append(load_file(folder / weights))
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])
    assert capsys.readouterr().out.count("Precision: ") == 1
    kept = yaml.safe_load((folder / "training_args.yaml").read_text(encoding="utf-8"))
    assert kept["mixed_precision"] == precision
    # The same command goes on in the precision that was chosen, whatever would be measured now.
    more = {"output_dir": str(folder), "max_train_steps": options["max_train_steps"] + 2}
    train(**options | more, mixed_precision="auto")
    assert "Precision: " not in capsys.readouterr().out
