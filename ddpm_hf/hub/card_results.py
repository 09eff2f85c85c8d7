"""Results for a model card, read from the files of `ddpm-hf compare` and `ddpm-hf evaluate`."""

from pathlib import Path

from huggingface_hub import EvalResult

from ddpm_hf.files import read_mapping
from ddpm_hf.hub.public_names import public_report
from ddpm_hf.reports.report_files import BOUND, COMPARISON

TASK = "unconditional-image-generation"


def read_results(folder, evaluations=()):
    """The results in a folder, and in further files.

    Args:
        evaluations: result files, or folders with them; later ones take precedence.

    Returns:
        `dict`: "compare" and "bpd" in their public form, if the files exist.

    Raises:
        InputError: naming the file, if it cannot be read, or lacks an entry of its kind.
    """
    results = {}
    for place in (folder, *evaluations):
        place = Path(place)
        files = [place / COMPARISON.name, place / BOUND.name] if place.is_dir() else [place]
        for file in files:
            if file.is_file():
                content = public_report(read_mapping(file))
                is_comparison = "measurements" in content
                (COMPARISON if is_comparison else BOUND).check(file, content)
                results["compare" if is_comparison else "bpd"] = content
    return results


def results_text(results):
    """Markdown of all results; "" if there are none."""
    parts = []
    if "compare" in results:
        comparison = results["compare"]
        how = "\n".join(f"- {name}: {value}" for name, value in comparison["settings"].items() if name != "model")
        parts.append(f"{sampler_table(comparison)}\n\n{how}")
    if "bpd" in results:
        bound = results["bpd"]
        error = "" if bound["standard_error"] is None else f" ± {bound['standard_error']:.3f}"
        parts.append(
            f"Variational bound on the negative log-likelihood: **{bound['total']:.3f}{error} bits/dim** (mean and "
            f"standard error over {bound['num_images']} images, {len(bound['timesteps'])} steps)."
        )
    return "\n\n".join(parts)


def sampler_table(comparison):
    """A table with a row per sampler and number of steps; the least distance for each number of steps is bold."""
    rows = comparison["measurements"]
    least = {row["steps"]: min(r["mean"] for r in rows if r["steps"] == row["steps"]) for row in rows}

    def cells(row):
        distance = f"{row['mean']:.3g}" + ("" if row["spread"] is None else f" ± {row['spread']:.2g}")
        return (
            row["sampler"],
            str(row["steps"]),
            "" if row["seconds"] is None else f"{row['seconds']:.3g}",
            "" if row["bits_per_dim"] is None else f"{row['bits_per_dim']:.3f}",
            f"**{distance}**" if row["mean"] == least[row["steps"]] else distance,
        )

    head = ("sampler", "steps", "seconds per image", "bits/dim", comparison["distance"])
    lines = [head, ("---",) * len(head), *(cells(row) for row in sorted(rows, key=lambda r: (r["steps"], r["mean"])))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def eval_results(results, dataset_id, dataset_name):
    """The results as [`EvalResult`], which the Hub reads as `model-index`.

    Args:
        dataset_id, dataset_name (`str`): the data set of files that do not name one.
    """
    found = []
    if "compare" in results:
        found += _results_of_comparison(results["compare"])
    if "bpd" in results:
        bound = results["bpd"]
        found.append(
            EvalResult(
                **{"task_type": TASK, "dataset_type": dataset_id, "dataset_name": dataset_name},
                **{"metric_type": "bits-per-dim", "metric_value": bound["total"]},
                metric_name=f"Bits per dimension ({len(bound['timesteps'])} steps)",
            )
        )
    return found


def _results_of_comparison(comparison):
    name, split, _ = comparison["settings"]["data"].rsplit(", ", 2)
    data = {"task_type": TASK, "dataset_type": name.replace(" ", "-"), "dataset_name": name, "dataset_split": split}
    quantities = (
        ("frechet-distance", comparison["distance"], "mean"),
        ("bits-per-dim", "Bits per dimension", "bits_per_dim"),
        ("seconds-per-image", "Seconds per image", "seconds"),
    )
    return [
        EvalResult(
            **data,
            metric_type=kind,
            metric_name=f"{title} ({row['sampler']}, {row['steps']} steps)",
            metric_value=row[key],
        )
        for row in comparison["measurements"]
        for kind, title, key in quantities
        if row[key] is not None
    ]
