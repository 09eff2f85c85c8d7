"""Pictures show the numbers of the formulas, have labelled axes, and are written in the requested format."""

import io
import sys

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image
from torch.testing import assert_close
from typer.testing import CliRunner

from ddpm_hf import ExactDenoiser, GaussianDiffusionPipeline, GaussianDiffusionScheduler, MLPDenoiser, cli
from ddpm_hf.calibration.reverse_variances import reverse_variances
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.evaluation.forward_process import forward_marginals
from ddpm_hf.figures import model_figures
from ddpm_hf.schedulers.covariance_spectrum import CovarianceSpectrum, knots
from ddpm_hf.visualization import (
    draw_forward_process,
    draw_gamma,
    draw_image_rows,
    draw_loss,
    draw_path,
    draw_samples,
    draw_schedules,
    draw_score_field,
    draw_timesteps,
    draw_variances,
    new_figure,
    path_images,
    save_figure,
    score,
)
from ddpm_hf.visualization.image_table import ImageTable, draw_image_table
from ddpm_hf.visualization.style import label_in_full

GAMMA = torch.linspace(0.3, 0.99, 1000).tolist()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def curves(axes):
    """{label: y} of the lines."""
    return {line.get_label(): torch.as_tensor(line.get_ydata()) for line in axes.lines}


def labels(figure):
    """(x, y) of all panels that show axes."""
    return [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes if axes.axison]


# Scheduler -----------------------------------------------------------------------------------------------------------


def test_schedules_are_the_schedulers():
    schedulers = {name: GaussianDiffusionScheduler(beta_schedule=name) for name in ("linear", "squaredcos_cap_v2")}
    figure = draw_schedules(schedulers)
    betas, log_snr, signal, noise = map(curves, figure.axes)
    for name, scheduler in schedulers.items():
        assert_close(betas[name].float(), scheduler.betas)
        assert_close(signal[name] ** 2 + noise[name] ** 2, torch.ones(1000).double())
        assert_close(log_snr[name], 2 * (signal[name] / noise[name]).log(), rtol=1e-6, atol=1e-6)
    assert all(y for _, y in labels(figure)) and "nats" in figure.axes[1].get_ylabel()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(schedulers)


def test_gamma_and_what_follows_from_it():
    scheduler = GaussianDiffusionScheduler(mean_square_epsilon=GAMMA)
    figure = draw_gamma(scheduler)
    (gamma,), (std,) = (list(curves(axes).values()) for axes in figure.axes)
    assert_close(gamma, torch.tensor(GAMMA).double())
    assert figure.axes[0].get_ylabel() == "mean_square_epsilon = $1 - R_t$"
    alpha_bar = scheduler.alpha_bar(500)
    assert std[500].item() == pytest.approx(min(1, ((1 - alpha_bar) / alpha_bar * (1 - GAMMA[500])).item()) ** 0.5)
    with pytest.raises(ValueError, match="no mean_square_epsilon.*ddpm-hf calibrate"):
        draw_gamma(GaussianDiffusionScheduler())


def test_variances_are_those_of_the_kernel():
    scheduler = GaussianDiffusionScheduler(mean_square_epsilon=GAMMA)
    variances = reverse_variances(scheduler, 10)
    assert list(variances) == ["ddpm", "ddpm-large", "analytic-ddpm", "analytic-ddim"]
    sampler = GaussianDiffusionScheduler(timestep_spacing="linspace")
    sampler.set_timesteps(10)
    for step, t in zip(variances["ddpm"], sampler.timesteps[:-1], strict=True):
        posterior = sampler.q_posterior(torch.zeros(1, 1), torch.zeros(1, 1), t)
        assert step.timestep == t and step.mean == step.low == step.high == pytest.approx(posterior.variance.item())
    for small, optimal, large in zip(*list(variances.values())[0:3:2], variances["ddpm-large"], strict=True):
        assert small.mean <= optimal.mean
        assert large.mean >= small.mean
    figure = draw_variances(variances)
    drawn = curves(figure.axes[0])
    assert drawn["ddpm"][0].item() == pytest.approx(variances["ddpm"][0].mean ** 0.5)
    assert "unit of" in figure.axes[0].get_ylabel() and figure.axes[0].get_yscale() == "log"


def test_variances_by_frequency_spread_about_the_same_mean():
    values = torch.full((len(knots(1000)), 1, 4, 4), 0.5)
    values[:, 0, 0, 0] = 8.5
    spectrum = CovarianceSpectrum((1, 4, 4), knots(1000), values).to_config()
    variances = reverse_variances(
        GaussianDiffusionScheduler(mean_square_epsilon=GAMMA, covariance_spectrum=spectrum), 10
    )
    assert list(variances) == ["ddpm", "ddpm-large", "analytic-ddpm", "analytic-ddim", "dct-ddpm", "dct-ddim"]
    for one, by_frequency in zip(variances["analytic-ddim"], variances["dct-ddim"], strict=True):
        assert by_frequency.mean == pytest.approx(one.mean, rel=1e-5)
        assert by_frequency.low == pytest.approx(0.5 * one.mean, rel=1e-5)


def test_variances_of_a_head():
    """The variance of the exact denoiser of normal data N(0, 4 I): Var[x_0 | x_t] is the same everywhere."""
    scheduler = GaussianDiffusionScheduler(variance_type="npr", clip_sample=False, clip_covariance=False)
    denoiser = ExactDenoiser.from_gaussian_mixture(torch.zeros(1, 2), torch.full((1, 2), 4.0), scheduler)
    variances = reverse_variances(scheduler, 5, lambda x, t: denoiser(x, t).sample, "npr", 2 * normal(50, 2))
    assert list(variances) == ["ddpm", "ddpm-large", "npr-ddpm", "npr-ddim"]
    for step, following in zip(variances["npr-ddpm"], [*variances["npr-ddpm"][1:], None], strict=True):
        s = following.timestep if following else 0
        a_t, a_s = scheduler.alpha_bar([step.timestep, s]).tolist()
        beta = 1 - a_t / a_s
        small = (1 - a_s) / (1 - a_t) * beta
        covariance = (1 - a_t) * 4 / (a_t * 4 + 1 - a_t)
        expected = small + a_s * (beta / (1 - a_t)) ** 2 * covariance
        assert step.mean == pytest.approx(expected, rel=1e-3) and step.low == pytest.approx(step.high, rel=1e-3)


def test_timesteps_of_every_spacing():
    plans = {"4": [999, 500, 100, 3]}
    scheduler = GaussianDiffusionScheduler(mean_square_epsilon=GAMMA, timestep_plans=plans)
    figure = draw_timesteps(scheduler, 4)
    (axes,) = figure.axes
    rows = [text.get_text() for text in axes.get_yticklabels()]
    assert rows == ["leading", "linspace", "trailing", "quadratic", "logsnr", "karras", "optimal", "planned"]
    drawn = {row: line.get_xdata().tolist() for row, line in zip(rows, axes.lines, strict=True)}
    assert drawn["leading"] == [750, 500, 250, 0] and drawn["planned"] == plans["4"]
    assert "optimal" not in [
        t.get_text() for t in draw_timesteps(GaussianDiffusionScheduler(), 4).axes[0].get_yticklabels()
    ]


# Data ----------------------------------------------------------------------------------------------------------------


def test_forward_process_of_points_and_of_images():
    for x_0, panels in ((normal(40, 2), 4), (normal(8, 3, 4, 4).clamp(-1, 1), 8)):
        marginals = forward_marginals(GaussianDiffusionScheduler(), x_0, [0, 999], num_permutations=19)
        figure = draw_forward_process(marginals, num_images=2)
        assert len(figure.axes) == panels
        assert [axes.get_title() for axes in figure.axes[:2]] == [
            f"t = {m.timestep}\np = {m.p:.2f}" for m in marginals
        ]
        assert {"step by step", "closed form"} <= {y for _, y in labels(figure)}
    above, below = (torch.as_tensor(figure.axes[i].images[0].get_array()) for i in (0, 4))
    assert_close(above, below, rtol=0, atol=0.2)  # at t = 0 the same image still
    assert above.shape == (4, 4, 3)


def test_samples_over_data():
    data, drawn = 3 * normal(50, 2) + 10, normal(30, 2, seed=1)
    figure = draw_samples(data, drawn)
    offsets = [[torch.as_tensor(c.get_offsets().data) for c in axes.collections] for axes in figure.axes]
    assert [[len(points) for points in panel] for panel in offsets] == [[50], [30], [50, 30]]
    assert [axes.get_title() for axes in figure.axes] == ["50 points of the data", "30 samples", "samples over data"]
    low, high = figure.axes[2].get_xlim()
    assert low < data[:, 0].min() and high > data[:, 0].max()


def test_the_score_of_normal_data_points_to_the_middle():
    scheduler = GaussianDiffusionScheduler()
    one = torch.ones(1, 2).double()
    denoiser = ExactDenoiser.from_gaussian_mixture(0 * one, one, scheduler)

    def predict(x_t, t):
        return denoiser(x_t, t).sample

    x_t = 2 * normal(20, 2).double()
    for t in (0, 300, 999):
        assert_close(score(scheduler, predict, x_t, t), -x_t, rtol=1e-6, atol=1e-6)
    figure = draw_score_field(scheduler, predict, normal(50, 2).double(), [10, 999], arrows=8)
    for axes in figure.axes:
        (arrows,) = [c for c in axes.collections if type(c).__name__ == "Quiver"]
        pairs = (arrows.X, arrows.Y), (arrows.U, arrows.V)
        places, drawn = (torch.from_numpy(np.stack(pair, axis=1)).float() for pair in pairs)
        lengths = places.norm(dim=1)
        longest = lengths.median()
        assert longest < lengths.max()
        assert_close(drawn, -places * (longest / lengths).clamp(max=1)[:, None], rtol=1e-4, atol=1e-4)
    assert figure.axes[1].get_title() == r"t = 999, $\sqrt{1 - \bar\alpha_t}$ = 1"


def test_rows_of_images_keep_their_pixels_under_their_titles():
    shades = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 5), dtype=np.uint8)
    rows = [[Image.fromarray(image) for image in row] for row in shades]
    file = io.BytesIO()
    save_figure(draw_image_rows(rows, [*"abcd"], ["one", "two"], tile=10), file)
    grid = np.asarray(Image.open(file).convert("L"))[-20:, -40:].astype(int)
    expected = np.block([list(row) for row in shades]).repeat(2, 0).repeat(2, 1)
    assert np.abs(grid - expected).max() <= 1  # matplotlib rounds some shades down
    bare, titled = (draw_image_rows(rows, titles, tile=10) for titles in ([], ["left half", "right half"]))
    (line,) = titled.axes[0].lines
    assert set(line.get_xdata()) == {9.5} and titled.axes[0].get_xticks().tolist() == [4.5, 14.5]
    assert not bare.axes[0].lines and bare.get_size_inches().tolist() == pytest.approx([40 / 150, 20 / 150])


def test_a_table_of_images_keeps_its_pixels_between_titles_and_captions():
    shades = np.random.default_rng(0).integers(0, 256, (2, 3, 2, 5, 5), dtype=np.uint8)
    cells = [[[*map(Image.fromarray, cell)] for cell in row] for row in shades]
    captions = [["1", "2", "3"], ["4", "a caption that is wider than its images", "6"]]
    table = ImageTable(cells, ["one", "two"], [*"abc"], captions, {(1, 0)}, "title")
    figure = draw_image_table(table, tile=10)
    texts = {text.get_text(): text for text in figure.axes[0].texts}
    assert {*texts} == {"title", *"abc", "one", "two", *captions[0], *captions[1]}
    assert [name for name, text in texts.items() if text.get_weight() == "bold"] == ["4"]
    file = io.BytesIO()
    save_figure(figure, file)
    drawn = np.asarray(Image.open(file).convert("L")).astype(int)
    for image, cell in zip(figure.axes[0].images, shades.reshape(6, 2, 5, 5), strict=True):
        left, right, bottom, top = image.get_extent()
        expected = np.concatenate([*cell], axis=1).repeat(2, 0).repeat(2, 1)
        assert np.abs(drawn[top:bottom, left:right] - expected).max() <= 1  # matplotlib rounds some shades down
    for column, title in enumerate("abc"):
        left, right = figure.axes[0].images[column].get_extent()[:2]
        assert texts[title].get_position()[0] == (left + right) / 2


@pytest.mark.parametrize("values", [(1.2, 4.9), (0.21, 0.24), (0.03, 0.4), (2, 700)])
def test_a_logarithmic_axis_has_labels_wherever_its_values_are(values):
    figure, ((axes,),) = new_figure(4, 3)
    axes.plot([1, 2], values)
    axes.set_yscale("log")
    label_in_full(axes.yaxis)
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    shown = [text.get_text() for text in axes.get_yticklabels() if low <= text.get_position()[1] <= high]
    assert len(shown) >= 3 and all(float(label) > 0 and "e" not in label for label in shown)


def test_the_loss_by_update():
    figure = draw_loss([{"step": 10, "loss": 0.9}, {"step": 20, "loss": 0.5}])
    (line,) = figure.axes[0].lines
    assert line.get_xydata().tolist() == [[10, 0.9], [20, 0.5]] and labels(figure) == [
        ("optimizer updates", "training loss")
    ]


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_the_score_of_other_predictions(prediction_type):
    scheduler = GaussianDiffusionScheduler(prediction_type=prediction_type, variance_type="npr")
    denoiser = ExactDenoiser.from_gaussian_mixture(torch.zeros(1, 2), torch.ones(1, 2), scheduler)
    x_t = normal(5, 2)
    assert_close(score(scheduler, lambda x, t: denoiser(x, t).sample, x_t, 200), -x_t, rtol=1e-4, atol=1e-4)


# Files ---------------------------------------------------------------------------------------------------------------


def test_files_are_as_their_ending_says(tmp_path):
    figures = [draw_path({"t = 9": normal(9, 2), "samples": normal(9, 2)}) for _ in range(2)]
    for i, figure in enumerate(figures):
        save_figure(figure, tmp_path / f"{i}.svg")
        save_figure(figure, tmp_path / f"{i}.png")
    picture = Image.open(tmp_path / "0.png")
    assert picture.width == round(2 * 1.35 * 150) and (tmp_path / "0.svg").read_text(encoding="utf-8").startswith(
        "<?xml"
    )
    assert (tmp_path / "0.svg").read_bytes() == (tmp_path / "1.svg").read_bytes()


def test_figures_have_their_own_ground():
    """Opaque, so that they read on a dark page; and dark on it."""
    figure, axes = new_figure(3, 2)
    axes[0, 0].set_xlabel("x")
    file = io.BytesIO()
    save_figure(figure, file)
    pixels = torch.tensor(list(Image.open(file).convert("RGBA").get_flattened_data()))
    assert (pixels[:, 3] == 255).all() and pixels[:, :3].amin() < 60
    assert to_rgb(figure.get_facecolor()) == (1, 1, 1)


def test_frames_of_an_animation():
    frames = path_images({"t = 9": normal(9, 2), "samples": normal(9, 2)}, data=normal(5, 2))
    assert len(frames) == 2 and frames[0].size == frames[1].size and frames[0].mode == "RGB"
    assert frames[0].tobytes() != frames[1].tobytes()


# Models and commands -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network of points, untrained, with units of data."""
    torch.manual_seed(0)
    network = MLPDenoiser(width=8, data_mean=[10.0, 0.0], data_std=[2.0, 1.0])
    pipeline = GaussianDiffusionPipeline(network, GaussianDiffusionScheduler(20, 0.005, 0.9, clip_sample=False))
    folder = tmp_path_factory.mktemp("model") / "points"
    pipeline.save_pretrained(folder)
    return folder


def show(*arguments):
    return CliRunner().invoke(cli.app, ["show", *map(str, arguments)])


def test_the_path_ends_in_the_samples(model):
    pipeline = GaussianDiffusionPipeline.from_pretrained(model)
    frames = model_figures.path(pipeline, 6, 5, seed=3)
    assert next(iter(frames)) == "t = 19" and list(frames)[-1] == "samples" and len(frames) == 5
    noise = torch.randn(6, 2, generator=torch.Generator().manual_seed(3))
    assert_close(frames["t = 19"], noise)
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(6, 2, generator=generator)
    assert_close(frames["samples"], pipeline(latents=latents, generator=generator, output_type="latent").images)
    timesteps = [int(title.removeprefix("t = ")) for title in list(frames)[:-1]]
    assert timesteps == sorted(timesteps, reverse=True)


def test_samples_are_in_the_units_of_the_data(model):
    figure = model_figures.samples(
        GaussianDiffusionPipeline.from_pretrained(model), DataArguments(dataset="two_moons"), 20, num_inference_steps=2
    )
    data = torch.as_tensor(figure.axes[0].collections[0].get_offsets().data)
    assert data.abs().max() < 3  # two moons, not standardised
    assert "data's unit" in figure.axes[0].get_xlabel()


def test_every_command(tmp_path, model):
    (tmp_path / "loss.csv").write_text("step,loss,lr,images_per_second\n1,0.9,0.1,5\n2,0.5,0.1,5\n", encoding="utf-8")
    pipeline = GaussianDiffusionPipeline.from_pretrained(model)
    scheduler = pipeline.scheduler.from_config(pipeline.scheduler.config, mean_square_epsilon=GAMMA[::50])
    GaussianDiffusionPipeline(pipeline.unet, scheduler).save_pretrained(tmp_path / "calibrated")
    points = ["--dataset", "two_moons", "--num_samples", 20]
    commands = {
        "schedules.svg": ["schedules"],
        "of_model.png": ["schedules", model],
        "forward.png": ["forward", model, *points, "--timesteps", "0,19"],
        "loss.svg": ["loss", tmp_path],
        "samples.png": ["samples", model, *points, "--recipe", "ddim-2m", "--steps", 3, "--device", "cpu"],
        "path.png": ["path", model, "--num_samples", 9, "--frames", 3, "--device", "cpu"],
        "path.gif": ["path", model, "--num_samples", 9, "--frames", 3, "--eta", 0, "--device", "cpu"],
        "score.png": ["score", model, *points, "--timesteps", "3,19", "--device", "cpu"],
        "score_by_default.png": ["score", model, *points, "--device", "cpu"],
        "gamma.png": ["gamma", tmp_path / "calibrated"],
        "variances.png": ["variances", model, "--steps", 5, "--device", "cpu"],
        "timesteps.svg": ["timesteps", model, "--steps", 5],
    }
    for name, words in commands.items():
        result = show(*words, "--output", tmp_path / name)
        assert result.exit_code == 0, (name, result.output, result.exception)
        assert str(tmp_path / name) in result.output.replace("\n", "")
        if not name.endswith(".svg"):
            assert Image.open(tmp_path / name).format == name[-3:].upper()
    assert Image.open(tmp_path / "path.gif").n_frames == 3


@pytest.mark.parametrize(
    "words, message",
    [
        (["gamma", "MODEL"], "no mean_square_epsilon.*ddpm-hf calibrate"),
        (["schedules", "no/such/folder"], "no/such/folder"),
        (["schedules", "--output", "here.jpg"], "here.jpg must end in .png or .svg"),
        (["timesteps", "MODEL", "--steps", "21"], "num_inference_steps=21 must be in 1 .. 20"),
        (["path", "MODEL", "--output", "here.bmp"], "here.bmp must end in .png or .svg or .gif"),
        (["path", "MODEL", "--recipe", "best"], "The recipe 'best' is not known"),
        (["score", "MODEL", "--dataset", "two_moons", "--timesteps", "3,x"], "--timesteps 3,x must be whole numbers"),
        (["score", "MODEL", "--dataset", "two_moons", "--timesteps", "20"], r"Timesteps must be in 0 .. 19; got 20"),
        (["forward", "MODEL", "--dataset", "two_moons", "--timesteps", "30"], r"timesteps=\[30\] must ascend"),
        (["loss", "nowhere"], "There is no folder or file nowhere"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, model, words, message):
    monkeypatch.chdir(tmp_path)
    words = [str(model) if word == "MODEL" else word for word in words]
    monkeypatch.setattr(sys, "argv", ["ddpm-hf", "show", *words])
    with pytest.raises(SystemExit, match=f"ddpm-hf: error: .*{message}"):
        cli.main()
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "mine.png").write_text("mine", encoding="utf-8")
    result = show("schedules", "--output", tmp_path / "mine.png")
    assert (
        "is already there" in str(result.exception) and (tmp_path / "mine.png").read_text(encoding="utf-8") == "mine"
    )


def test_an_unknown_picture_is_refused():
    result = show("gama")
    assert result.exit_code == 2 and "No such command 'gama'" in result.output


def test_pictures_of_points_are_not_of_images(tmp_path, tiny_unet):
    pipeline = GaussianDiffusionPipeline(tiny_unet(), GaussianDiffusionScheduler())
    with pytest.raises(ValueError, match=r"points of the plane.* \(1, 8, 8\).*ddpm-hf sample"):
        model_figures.samples(pipeline, DataArguments(dataset="two_moons"), 4)
