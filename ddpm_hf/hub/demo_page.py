"""The page of a demo, with a choice of samplers and a live view of the images."""

import random

import gradio as gr

from ddpm_hf.hub.drawing import LARGEST_SEED, draw
from ddpm_hf.models.network_config import classes_of
from ddpm_hf.pipelines.conditioning import class_names

NO_CLASS = -1
MOST_IMAGES = 16

# System fonts, visible pixels for small images, and no external resources.
THEME = gr.themes.Base(
    primary_hue="indigo",
    neutral_hue="slate",
    radius_size="lg",
    font=["ui-sans-serif", "system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    body_background_fill="*neutral_50",
    block_border_width="0px",
    block_shadow="*shadow_drop",
    block_label_background_fill="transparent",
    button_primary_shadow="*shadow_drop",
)
STYLE = """
.gradio-container { max-width: 1160px !important; margin: 0 auto; }
#title h1 { font-size: 1.9rem; letter-spacing: -0.02em; margin: 0; }
#title p, #status p, #caption p { color: var(--body-text-color-subdued); }
#status p, #caption p { text-align: center; font-variant-numeric: tabular-nums; }
#image, #strip { border: 0; background: none; box-shadow: none; }
#image img, #strip img { image-rendering: pixelated; object-fit: contain; width: 100%; height: 100%; }
#image img, #strip img { border-radius: 6px; }
"""
# Arguments of `Blocks.launch`; the browser keeps no history of runs.
LOOK = {"theme": THEME, "css": STYLE, "footer_links": ["api"], "run_history": False}


def with_samplers(pipeline, samplers):
    """{name: a pipeline with the same network and this sampler}.

    Args:
        pipeline ([`GaussianDiffusionPipeline`]): a pipeline with a [`GaussianDiffusionScheduler`].
        samplers (`dict`): changes of the scheduler's config by name, such as `{"ddim": {"eta": 0.0}}`.
    """
    own, pipelines = pipeline.scheduler, {}
    for name, changes in samplers.items():
        scheduler = type(own).from_config(own.config, **changes)
        pipelines[name] = type(pipeline)(**pipeline.components | {"scheduler": scheduler})
        pipelines[name].set_progress_bar_config(disable=True)
    return pipelines


def demo_page(pipelines, title, sampler, num_inference_steps):
    """A [`gradio.Blocks`]; `page.launch(**LOOK)` serves it.

    Args:
        pipelines (`dict`): pipelines by the name of the sampler, as from `with_samplers`.
        title (`str`): the model's name.
        sampler (`str`), num_inference_steps (`int`): the initial choices.
    """
    pipeline = pipelines[sampler]

    def show(sampler, num_inference_steps, class_label, guidance_scale, classifier_guidance_scale, num_images, seed):
        """Yields the current images, the path of the first, and the time; the last images are the result."""
        options = {
            "num_inference_steps": num_inference_steps,
            "class_labels": None if class_label == NO_CLASS else class_label,
            "guidance_scale": guidance_scale,
            "classifier_guidance_scale": classifier_guidance_scale,
        }
        strip = None
        try:
            for view in draw(pipelines[sampler], num_images, seed, **options):
                # Pictures are files named by content, which must not be rewritten while a browser reads them.
                yield view.image, gr.skip() if view.strip is strip else view.strip, _status(view)
                strip = view.strip
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(f"# {title}\n{_description(pipeline)}", elem_id="title")
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                inputs = _choices(pipelines, sampler, num_inference_steps)
                with gr.Row():
                    another = gr.Button("Another seed", elem_id="another")
                    stop = gr.Button("Stop", elem_id="stop")
                begin = gr.Button("Draw", variant="primary", size="lg", elem_id="draw")
            with gr.Column(scale=7, min_width=400):
                image = _picture("image", "The images", height=540)
                status = gr.Markdown("Press *Draw*, and watch the images form.", elem_id="status")
        strip = _picture("strip", "The way from noise to the first image", height=200)
        gr.Markdown(
            "From noise to the first image: the image as it is (above), and what the network expects it to become "
            "(below).",
            elem_id="caption",
        )
        # No progress overlay may cover the image while it forms.
        run = begin.click(show, inputs, [image, strip, status], show_progress="hidden", api_name="draw")
        stop.click(None, cancels=[run], api_visibility="private")
        another.click(lambda: random.randint(0, LARGEST_SEED), outputs=inputs[-1], api_visibility="private")
    return page


def _choices(pipelines, sampler, num_inference_steps):
    """The input components, in the order of the arguments of `show`; hidden if the model lacks the feature."""
    pipeline = pipelines[sampler]
    labels, first_label = label_choices(pipeline)
    num_classes, null_label = classes_of(pipeline.unet.config)
    has_classifier = pipeline.classifier is not None
    # Without classes in the model, only the classifier uses the label.
    by_classifier = int(has_classifier and num_classes is None)
    towards = {"label": "Guidance", "info": "Towards the class; 1 is off", "visible": null_label is not None}
    steered = {"label": "Guidance by the classifier", "info": "0 is off", "visible": has_classifier}
    return [
        gr.Dropdown(list(pipelines), value=sampler, label="Sampler", elem_id="sampler"),
        gr.Slider(1, len(pipeline.scheduler), num_inference_steps, step=1, label="Steps", elem_id="steps"),
        gr.Dropdown(labels, value=first_label, label="Class", visible=bool(labels), elem_id="class"),
        gr.Slider(0, 10, 1, step=0.1, elem_id="guidance", **towards),
        gr.Slider(0, 10, by_classifier, step=0.1, elem_id="classifier_guidance", **steered),
        gr.Slider(1, MOST_IMAGES, 9, step=1, label="Images", elem_id="num_images"),
        gr.Number(0, label="Seed", precision=0, minimum=0, maximum=LARGEST_SEED, elem_id="seed"),
    ]


def _picture(name, text, height):
    """An image component that sends PNG, which keeps every pixel exactly."""
    return gr.Image(
        format="png",
        height=height,
        elem_id=name,
        alt_text=text,
        show_label=False,
        interactive=False,
        buttons=["download", "fullscreen"],
    )


def label_choices(pipeline):
    """[(text, label)] of the network's classes or else the classifier's, and the initial label; [] without classes."""
    num_classes, null_label = classes_of(pipeline.unet.config)
    if num_classes is None:
        if pipeline.classifier is None:
            return [], None
        num_classes = pipeline.classifier.config.num_classes
    names = class_names(pipeline)
    labels = [(names.get(label, str(label)), label) for label in range(num_classes)]
    return ([("any", NO_CLASS), *labels], NO_CLASS) if null_label is not None else (labels, 0)


def _description(pipeline):
    weights = sum(weight.numel() for weight in pipeline.unet.parameters())
    size = " × ".join(map(str, pipeline.samples.sides))
    return f"Images of {size} from noise · {weights:,} weights · {len(pipeline.scheduler)} timesteps"


def _status(view):
    if view.step < view.num_steps:
        return f"step {view.step} of {view.num_steps}"
    return f"**{view.seconds:.3g} s** per image, in {view.num_steps} steps"
