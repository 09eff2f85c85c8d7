"""Results for a model card, read from the files of `ddpm-hf compare` and `ddpm-hf evaluate`."""

from pathlib import Path

from huggingface_hub import EvalResult

from ddpm_hf.files import read_mapping
from ddpm_hf.hub.public_names import public_report
from ddpm_hf.reports.report_files import BOUND, COMPARISON, MEASURES

TASK, TEXT_TASK = "unconditional-image-generation", "text-to-image"
# {name in the results: (the file, an entry that only it has)}
KINDS = {"compare": (COMPARISON, "measurements"), "measures": (MEASURES, "figures"), "bpd": (BOUND, None)}


def read_results(folder, evaluations=()):
    """The results in a folder, and in further files.

    Args:
        evaluations: result files, or folders with them; later ones take precedence.

    Returns:
        `dict`: "compare", "measures" and "bpd" in their public form, if the files exist.

    Raises:
        InputError: naming the file, if it cannot be read, or lacks an entry of its kind.
    """
    results = {}
    for place in (folder, *evaluations):
        place = Path(place)
        files = [place / report.name for report, _ in KINDS.values()] if place.is_dir() else [place]
        for file in files:
            if file.is_file():
                content = public_report(read_mapping(file))
                kind = next(name for name, (_, entry) in KINDS.items() if entry is None or entry in content)
                KINDS[kind][0].check(file, content)
                results[kind] = content
    return results


def results_text(results):
    """Markdown of all results; "" if there are none."""
    parts = []
    if "compare" in results:
        comparison = results["compare"]
        how = "\n".join(f"- {name}: {value}" for name, value in comparison["settings"].items() if name != "model")
        parts.append(f"{sampler_table(comparison)}\n\n{how}")
    if "measures" in results:
        parts.append(measures_table(results["measures"]))
    if "bpd" in results:
        bound = results["bpd"]
        error = "" if bound["standard_error"] is None else f" ± {bound['standard_error']:.3f}"
        parts.append(
            f"Variational bound on the negative log-likelihood: **{bound['total']:.3f}{error} bits/dim** (mean and "
            f"standard error over {bound['num_images']} images, {len(bound['timesteps'])} steps)."
        )
    return "\n\n".join(parts)


def measures_table(measures):
    """A table with a row per figure of samples, with its error and its floor, and all that the figures depend on."""
    head = ("measure", "value", "floor", "features")
    rows = [head, ("---",) * len(head), *map(_cells_of_figure, measures["figures"])]
    conditions = [
        f"- {side}: {', '.join(f'{name} {value}' for name, value in measures[side].items() if name != 'of')}"
        for side in ("samples", "reference")
    ]
    floor = (
        "The floor is the same measure between two parts of the reference, of as many images as the brackets say. "
        "Figures of other numbers of samples, references or features do not compare."
    )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n\n" + "\n".join(conditions) + f"\n\n{floor}"


def _cells_of_figure(figure):
    error, floor, features = figure["standard_error"], figure["floor"], figure["features"]
    return (
        f"{figure['name']}: {figure['title']}",
        f"{figure['value']:.4g}" + ("" if error is None else f" ± {error:.2g}"),
        "" if floor is None else f"{floor['value']:.4g} ({floor['num_samples']}/{floor['num_reference']})",
        f"{features['network']}, {features['preprocessing']}",
    )


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
    if "measures" in results:
        found += _results_of_measures(results["measures"])
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


def _results_of_measures(measures):
    """A result for each figure, with its conditions: numbers of samples and steps, features, and floor."""
    samples, reference = measures["samples"], measures["reference"]
    name, _, split = reference["name"].partition(", ")
    data = {
        "task_type": TASK,
        "dataset_type": name.replace(" ", "-"),
        "dataset_name": name,
        "dataset_split": split or None,
    }
    steps = f", {samples['num_inference_steps']} steps" if "num_inference_steps" in samples else ""
    return [
        EvalResult(
            **data,
            metric_type=figure["name"].replace("_", "-"),
            metric_name=f"{figure['title']} ({samples['count']} samples{steps}, {figure['features']['network']})",
            metric_value=figure["value"],
            metric_args={
                "samples": samples,
                "reference": reference,
                **{key: figure[key] for key in ("standard_error", "bias", "floor", "features")},
            },
        )
        for figure in measures["figures"]
    ]


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
