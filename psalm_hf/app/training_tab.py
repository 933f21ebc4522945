"""The part of the tab of labels that trains on them, measures, and uses the new checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gradio as gr
from pandas import DataFrame
from PIL import Image

from .checkpoint import LoadedCheckpoint
from .fine_tuning import FineTuning
from .label_session import LabelSession
from .sentences import one_sentence

HOLDOUT = 0.2
TRAINING = (
    "Starts `psalm train` from the loaded checkpoint in a process of its own. It learns from the images that are not held out. Those that "
    "are held out, chosen by their names alone, tell how good the new checkpoint is. Some dozens of labelled images and some hundreds of "
    "steps show a difference. psalm-tiny makes a few steps per second on two cores; large checkpoints need a GPU."
)


def training_part(loaded: LoadedCheckpoint, session: gr.State, checkpoint_text: gr.Markdown) -> tuple[gr.Slider, gr.Dropdown, Callable]:
    """Lays out what trains, measures and uses.

    Returns:
        The share that is held out, the name of the run, and a function that makes an event show the run.
    """
    widgets = _training_widgets()
    ticking = gr.Timer(2.0, active=False)
    views = [widgets.state_text, widgets.curve, widgets.numbers, widgets.sheets, ticking]

    def run_of(state: LabelSession, run: str) -> FineTuning:
        if state.folder is None:
            raise ValueError("open a labelled folder first")
        return FineTuning.of(state.folder, run)

    def show(run: FineTuning) -> tuple:
        now = run.state()
        losses = DataFrame(now.losses, columns=["step", "loss"])
        return (
            now.message,
            losses,
            run.numbers(),
            gr.Gallery(_images(run.sheets()), visible=bool(run.sheets())),
            gr.Timer(active=now.phase == "running"),
        )

    def connect(event: Callable, function: Callable, *inputs: Any) -> None:
        def acted(state: LabelSession, run: str, *values: Any) -> tuple:
            training = run_of(state, run)
            function(training, *values)
            return show(training)

        event(one_sentence(acted), [session, widgets.name, *inputs], views, show_progress="hidden")

    connect(
        widgets.start.click,
        lambda run, number, speed, share: run.start(
            str(loaded.predictor.checkpoint), steps=int(number or 0), learning_rate=float(speed or 0), holdout=share
        ),
        widgets.steps,
        widgets.rate,
        widgets.holdout,
    )
    connect(widgets.stop.click, FineTuning.stop)
    connect(widgets.resume.click, FineTuning.resume)
    connect(ticking.tick, lambda run: None)
    connect(widgets.name.change, lambda run: None)

    @one_sentence
    def measured(state: LabelSession, run: str) -> Iterator[tuple]:
        training = run_of(state, run)
        for line in training.measured():
            yield (line, *show(training)[1:])
        yield show(training)

    @one_sentence
    def used(state: LabelSession, run: str) -> tuple:
        training = run_of(state, run)
        if training.state().phase != "ready":
            raise ValueError(f"the run {training.name} is not ready, so there is no new checkpoint to use")
        loaded.use(str(training.checkpoint))
        return loaded.describe(), f"**{training.name}** is loaded: it answers in all tabs now, for everybody who has this page open."

    widgets.measure.click(measured, [session, widgets.name], views, show_progress="hidden")
    widgets.use.click(used, [session, widgets.name], [checkpoint_text, widgets.state_text])
    return widgets.holdout, widgets.name, lambda event: connect(event, lambda run: None)


def _training_widgets() -> SimpleNamespace:
    with gr.Accordion("Train on what is labelled", open=True, elem_id="psalm-training"):
        gr.Markdown(TRAINING, elem_classes="psalm-hint")
        with gr.Row():
            name = gr.Dropdown(
                ["first"], value="first", allow_custom_value=True, label="Name of the run", min_width=140, elem_id="psalm-run"
            )
            steps = gr.Number(value=300, precision=0, minimum=1, label="Steps", min_width=100, elem_id="psalm-steps")
            rate = gr.Number(value=3e-4, label="Learning rate", min_width=100)
            holdout = gr.Slider(0.05, 0.5, value=HOLDOUT, step=0.05, label="Share that is held out", min_width=160)
        with gr.Row():
            start = gr.Button("Fine-tune", variant="primary", min_width=90)
            stop = gr.Button("Stop", min_width=70)
            resume = gr.Button("Resume", min_width=70)
            measure = gr.Button("Measure before and after", min_width=140)
            use = gr.Button("Use it", min_width=70)
        with gr.Row():
            with gr.Column(min_width=300):
                state_text = gr.Markdown("", elem_id="psalm-run-state")
                curve = gr.LinePlot(x="step", y="loss", label="Loss", height=260, elem_id="psalm-loss")
            with gr.Column(min_width=300):
                numbers = gr.Dataframe(
                    headers=["labels", "on held-out images, %", "before", "after"], label="Before and after", elem_id="psalm-numbers"
                )
        sheets = gr.Gallery(
            label="Worst (left) and best (right) predictions afterwards",
            columns=1,
            height="auto",
            object_fit="contain",
            visible=False,
            elem_id="psalm-sheets",
        )
    return SimpleNamespace(
        name=name,
        steps=steps,
        rate=rate,
        holdout=holdout,
        start=start,
        stop=stop,
        resume=resume,
        measure=measure,
        use=use,
        state_text=state_text,
        curve=curve,
        numbers=numbers,
        sheets=sheets,
    )


def _images(paths: list[str]) -> list[Any]:
    """Images in memory: gradio would refuse to show files that lie outside of its temporary folder."""
    return [Image.open(path).convert("RGB") for path in paths]
