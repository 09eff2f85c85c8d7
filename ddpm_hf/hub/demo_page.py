"""The page of a demo, with a choice of samplers and a live view of the images."""

import random

import gradio as gr
from PIL import Image, ImageOps

from ddpm_hf.hub.drawing import LARGEST_SEED, draw
from ddpm_hf.models.network_config import classes_of, is_told_text
from ddpm_hf.pipelines.conditioning import class_names
from ddpm_hf.pipelines.image_inputs import PIL_MODES
from ddpm_hf.samples.condition_values import absent_value_of, value_limits_of
from ddpm_hf.schedulers.sampler_lines import SAMPLER_LINES

NO_CLASS = -1
# The places of the guidance and of the seed among the inputs; a picture or a prompt comes behind them.
GUIDANCE, SEED = 3, 6
# Models of texts are usually guided.
GUIDANCE_OF_TEXTS = 3.0
GIVE_A_PICTURE = "Give a picture, and draw."
MOST_IMAGES = 16
USUAL_COUNTS = (5, 10, 25, 50, 100)
# The page draws when it opens, so that a network of large images begins with few of them: (largest side, images).
FIRST_IMAGES = ((64, 9), (128, 4))

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
# The space of the picture is kept while there is none, so that nothing moves when it comes.
STYLE = """
.gradio-container { max-width: 1160px !important; margin: 0 auto; }
#title h1 { font-size: 1.9rem; letter-spacing: -0.02em; margin: 0; }
#title p, #status p, #caption p, #compared p { color: var(--body-text-color-subdued); }
#status p, #caption p, #compared p { text-align: center; font-variant-numeric: tabular-nums; }
#image, #strip, #slider { border: 0; background: none; box-shadow: none; }
#image { aspect-ratio: 1; max-height: 540px; }
#strip { aspect-ratio: 6; }
#slider { max-width: 420px; margin: 0 auto; }
#image img, #strip img, #slider img { image-rendering: pixelated; object-fit: contain; width: 100%; height: 100%; }
#image img, #strip img { border-radius: 6px; }
@media (max-width: 640px) {
  .gradio-container main { padding: 12px !important; }
  #title h1 { font-size: 1.4rem; }
}
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


def demo_page(pipelines, title, sampler, num_inference_steps, link=None, prompts=()):
    """A [`gradio.Blocks`]; `page.launch(**LOOK)` serves it.

    Args:
        pipelines (`dict`): pipelines by the name of the sampler, as from `with_samplers`.
        title (`str`): the model's name.
        sampler (`str`), num_inference_steps (`int`): the initial choices.
        link (`str`, *optional*): the address of the model, for the title.
        prompts (`list[str]`): examples, for a model that is told a text.
    """
    pipeline = pipelines[sampler]
    heading = title if link is None else f"[{title}]({link})"
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(f"# {heading}\n{_description(pipeline)}", elem_id="title")
        with gr.Row():
            with gr.Column(scale=6, min_width=320):
                image = _picture("image", "The images")
                status = gr.Markdown("The first images are about to form.", elem_id="status")
                begin, stop, another = _row_of_buttons()
            with gr.Column(scale=5, min_width=320):
                inputs = _choices(pipelines, sampler, num_inference_steps, prompts)
                examples = _examples(pipelines, inputs, prompts)
        strip = _picture("strip", "The way from noise to the first image")
        gr.Markdown(
            "From noise to the first image: the image as it is (above), and what the network expects it to become "
            "(below).",
            elem_id="caption",
        )
        slider, compared, last = _before_and_after()

        def drawn_after(event, **options):
            """Events that draw once `event` has happened, with Stop in place of Draw meanwhile."""
            started = event(lambda: _buttons(running=True), outputs=[begin, stop], api_visibility="private")
            # No progress overlay may cover the image while it forms.
            run = started.then(_show(pipelines), inputs, [image, strip, status], show_progress="hidden", **options)
            run.then(lambda: _buttons(running=False), outputs=[begin, stop], api_visibility="private")
            beside = [last, image, inputs[0], inputs[1], inputs[SEED]]
            run.success(_compared, beside, [slider, compared, last], show_progress="hidden", api_visibility="private")
            return run

        reseeded = another.click(
            lambda: random.randint(0, LARGEST_SEED), outputs=inputs[SEED], api_visibility="private"
        )
        runs = [drawn_after(begin.click, api_name="draw")]
        for event in (page.load, reseeded.then, examples.load_input_event.then):
            runs.append(drawn_after(event, api_visibility="private"))
        stop.click(lambda: _buttons(running=False), outputs=[begin, stop], cancels=runs, api_visibility="private")
        inputs[0].change(
            lambda name: gr.Dropdown(info=SAMPLER_LINES.get(name)), inputs[0], inputs[0], api_visibility="private"
        )
    return page


def _show(pipelines):
    def show(sampler, num_inference_steps, label, guidance_scale, classifier_guidance_scale, num_images, seed, *given):
        """Yields the current images, the path of the first, and the time; the last images are the result."""
        strip = None
        try:
            pipeline = pipelines[sampler]
            if given and given[0] is None:
                yield gr.skip(), gr.skip(), GIVE_A_PICTURE
                return
            options = {
                "num_inference_steps": num_inference_steps,
                "class_labels": None if label == NO_CLASS and not value_limits_of(pipeline.unet.config) else label,
                "guidance_scale": guidance_scale,
                "classifier_guidance_scale": classifier_guidance_scale,
                **(told_texts(*given) if is_told_text(pipeline.unet.config) else told_picture(pipeline, *given)),
            }
            for view in draw(pipeline, num_images, seed, **options):
                # Pictures are files named by content, which must not be rewritten while a browser reads them.
                yield view.image, gr.skip() if view.strip is strip else view.strip, _status(view)
                strip = view.strip
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return show


def told_texts(prompt, negative_prompt):
    """The arguments of a pipeline for the texts of a page."""
    return {"prompt": prompt, "negative_prompt": negative_prompt}


def told_picture(pipeline, picture=None, augmentation_level=0.0):
    """The arguments of a pipeline for a picture that its network is told, cropped and resized to what it takes."""
    condition = pipeline.samples.condition
    if condition is None:
        return {}
    height, width = condition.low_resolution or pipeline.samples.sides
    fitting = ImageOps.fit(picture.convert("RGB"), (width, height), Image.Resampling.LANCZOS)
    image = fitting.convert(PIL_MODES[condition.condition_channels])
    return {"condition_image": image, "augmentation_level": augmentation_level}


def _row_of_buttons():
    """Draw, Stop and Another seed, beside each other."""
    with gr.Row():
        begin = gr.Button("Draw", variant="primary", elem_id="draw", min_width=120)
        stop = gr.Button("Stop", elem_id="stop", min_width=120, visible=False)
        return begin, stop, gr.Button("Another seed", elem_id="another", min_width=120)


def _buttons(running):
    """Draw, or Stop in its place."""
    return gr.Button(visible=not running), gr.Button(visible=running)


def _before_and_after():
    """The slider between the last two results, the text below it, and the last result; hidden until there are two."""
    slider = gr.ImageSlider(
        format="png", visible=False, elem_id="slider", show_label=False, max_height=420, buttons=["fullscreen"]
    )
    return slider, gr.Markdown(visible=False, elem_id="compared"), gr.State(None)


def _compared(last, image, sampler, num_inference_steps, seed):
    """The slider, its text, and this result as the next one's last."""
    said = f"{sampler} in {num_inference_steps} steps, seed {seed}"
    if last is None:
        return gr.skip(), gr.skip(), None if image is None else (image, said)
    if image is None:
        return gr.skip(), gr.skip(), last
    pair = gr.ImageSlider((last[0], image), visible=True)
    text = f"Before and after: **{last[1]}** on the left, **{said}** on the right; drag the line."
    return pair, gr.Markdown(text, visible=True), (image, said)


def _choices(pipelines, sampler, num_inference_steps, prompts=()):
    """The input components, in the order of the arguments of `show`; hidden if the model lacks the feature.

    A model of numbers has a slider in place of the classes, and one that is told a picture or a text has further
    components.
    """
    pipeline = pipelines[sampler]
    labels, first_label = label_choices(pipeline)
    num_classes, null_label = classes_of(pipeline.unet.config)
    has_classifier = pipeline.classifier is not None
    # Without classes in the model, only the classifier uses the label.
    by_classifier = int(has_classifier and num_classes is None)
    named = {"label": "Sampler", "info": SAMPLER_LINES.get(sampler)}
    is_of_texts, drops_number = is_told_text(pipeline.unet.config), absent_value_of(pipeline.unet.config) is not None
    aim = "the prompt" if is_of_texts else "the number" if drops_number else "the class"
    is_guided = is_of_texts or drops_number or null_label is not None
    towards = {"label": "Guidance", "info": f"Towards {aim}; 1 is off", "visible": is_guided}
    steered = {"label": "Guidance by the classifier", "info": "0 is off", "visible": has_classifier}
    seeded = {"label": "Seed", "info": "Each image has the seed of the one before plus 1"}
    counts = step_choices(pipeline, num_inference_steps)
    return [
        gr.Dropdown(list(pipelines), value=sampler, elem_id="sampler", **named),
        gr.Radio(counts, value=num_inference_steps, label="Steps", elem_id="steps"),
        _number_or_class(pipeline, labels, first_label),
        gr.Slider(0, 10, first_guidance(pipeline), step=0.1, elem_id="guidance", **towards),
        gr.Slider(0, 10, by_classifier, step=0.1, elem_id="classifier_guidance", **steered),
        gr.Slider(1, MOST_IMAGES, first_images(pipeline), step=1, label="Images", elem_id="num_images"),
        gr.Number(0, precision=0, minimum=0, maximum=LARGEST_SEED, elem_id="seed", **seeded),
        *(_text_inputs(prompts) if is_of_texts else _picture_inputs(pipeline.samples.condition)),
    ]


def first_guidance(pipeline):
    """The guidance when a page opens: that of the fitted solvers, 3 for a model that is told a text, or none."""
    fitted = pipeline.scheduler.config.get("fitted_solvers")
    if fitted is not None:
        return fitted["fitted_for"]["guidance_scale"]
    return GUIDANCE_OF_TEXTS if is_told_text(pipeline.unet.config) else 1


def _text_inputs(prompts):
    """The prompt, at first the first of the examples, and what guidance leads away from."""
    away = {"label": "Negative prompt", "info": "Guidance leads away from it; nothing is the usual"}
    return [
        gr.Textbox(prompts[0] if prompts else "", label="Prompt", elem_id="prompt", lines=2),
        gr.Textbox("", elem_id="negative_prompt", **away),
    ]


def _number_or_class(pipeline, labels, first_label):
    """The classes, or the numbers between the limits of the training."""
    limits = value_limits_of(pipeline.unet.config)
    if limits is not None:
        return gr.Slider(*limits, sum(limits) / 2, label="Number", elem_id="class")
    return gr.Dropdown(labels, value=first_label, label="Class", visible=bool(labels), elem_id="class")


def _picture_inputs(condition):
    """The picture that a model is told, and the noise on it, if it takes some."""
    if condition is None:
        return []
    picture = gr.Image(type="pil", label="Picture", elem_id="picture", sources=["upload", "clipboard"])
    level = condition.max_augmentation_level
    if level is None:
        return [picture]
    noise = {"label": "Noise on the picture", "info": "Hides its faults; 0 is none"}
    return [picture, gr.Slider(0, level, 0, step=0.05, elem_id="augmentation_level", **noise)]


def _examples(pipelines, inputs, prompts=()):
    """Buttons that set the inputs and draw."""
    values = [part.value for part in inputs]
    names = [name for name, _ in label_choices(pipelines[values[0]])[0]]
    found = example_changes(pipelines, values[0], names, inputs[GUIDANCE].visible)
    found |= {prompt: {SEED + 1: prompt} for prompt in prompts}
    rows = [[changes.get(i, value) for i, value in enumerate(values)] for changes in found.values()]
    return gr.Examples(
        rows, inputs, example_labels=[*found], elem_id="examples", api_visibility="private", preload=False
    )


def example_changes(pipelines, sampler, labels, has_guidance):
    """{text: {position of an input: its value}}, for what the model has."""
    most = len(pipelines[sampler].scheduler)
    found = {
        f"{name} in {count} steps": {0: name, 1: count}
        for name, count in ((sampler, 5), ("ddim", 10), ("ddpm", 100))
        if name in pipelines and count < most
    }
    if has_guidance and "ddim-2m" in pipelines and most > 25:
        # `labels` begins with that of no class.
        found |= {
            f"{label}, guided": {0: "ddim-2m", 1: 25, 2: number, 3: 3} for number, label in enumerate(labels[1:3])
        }
    return found or {"seed 1": {6: 1}}


def step_choices(pipeline, initial):
    """[(text, number of steps)]: the usual numbers, the initial one, and all."""
    every = len(pipeline.scheduler)
    counts = sorted(count for count in {*USUAL_COUNTS, initial} if count < every)
    return [*((str(count), count) for count in counts), (f"all {every}", every)]


def first_images(pipeline):
    """The number of images that the page draws when it opens."""
    return next((count for side, count in FIRST_IMAGES if max(pipeline.samples.output_shape[1:]) <= side), 1)


def _picture(name, text):
    """An image component that sends PNG, which keeps every pixel exactly."""
    return gr.Image(
        format="png",
        type="pil",
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
    size = " × ".join(map(str, pipeline.samples.output_shape[1:]))
    condition, told = pipeline.samples.condition, ""
    if condition is not None:
        told = f" and a picture of {' × '.join(map(str, condition.low_resolution or pipeline.samples.sides))}"
    if is_told_text(pipeline.unet.config):
        told = " and a text"
    return f"Images of {size} from noise{told} · {weights:,} weights · {len(pipeline.scheduler)} timesteps"


def _status(view):
    if view.step < view.num_steps:
        return f"step {view.step} of {view.num_steps}"
    return f"**{view.seconds:.3g} s** per image, in {view.num_steps} steps"
