"""The tab that labels a folder of images, fine-tunes a checkpoint on it, and uses the new one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from . import label_session as work
from .board import SCRIPT
from .checkpoint import LoadedCheckpoint
from .label_session import LABEL_TABLE, LABEL_TOOLS, NAMES, SENTENCE_MODE, LabelSession
from .sentences import one_sentence
from .strokes import MARK
from .training_run import TrainingRun, run_names

NEW_OBJECT = "a new object"
HOLDOUT = 0.2
HINT = (
    f"**{MARK}**: the model finds the mask of what you click or box; with Shift or the right button it takes away what does not belong. "
    "**Brush** and **Eraser** change the chosen object. A name in the table can be rewritten. Saved without any accepted object, an image "
    "says that there is nothing."
)
TRAINING = (
    "Starts `psalm train` from the loaded checkpoint in a process of its own. It learns from the images that are not held out. Those that "
    "are held out, chosen by their names alone, tell how good the new checkpoint is. Some dozens of labelled images and some hundreds of "
    "steps show a difference. psalm-tiny makes a few steps per second on two cores; large checkpoints need a GPU."
)


def label_tab(loaded: LoadedCheckpoint, session: gr.State, checkpoint_text: gr.Markdown, data: Path) -> None:
    """Lays the tab out and connects it.

    Args:
        session: of the user, a `LabelSession`.
        checkpoint_text: the line about the loaded checkpoint.
        data: the folder whose folders may be labelled.
    """
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            with gr.Group():
                relative = gr.Textbox(label=f"Folder below {data.name}", value=".", elem_id="psalm-label-folder")
                open_folder = gr.Button("Open", size="sm")
                uploads = gr.File(
                    label="Add images", file_count="multiple", file_types=["image"], height=110, elem_id="psalm-label-uploads"
                )
            with gr.Group():
                mode = gr.Radio([NAMES, SENTENCE_MODE], value=NAMES, label="Label by")
                text = gr.Textbox(label="Names with commas, or one sentence", placeholder="star, ring", elem_id="psalm-label-text")
                propose = gr.Button("Propose", variant="primary")
            with gr.Group():
                tool = gr.Radio(LABEL_TOOLS, value=MARK, label="Mark and correct", elem_id="psalm-label-tool")
                chosen = gr.Dropdown([NEW_OBJECT], value=NEW_OBJECT, label="The brush changes", elem_id="psalm-label-chosen")
                width = gr.Slider(0.005, 0.15, value=0.04, step=0.005, label="Width of the brush")
            with gr.Row():
                save = gr.Button("Save", min_width=80)
                save_next = gr.Button("Save, next", variant="primary", min_width=100)
            with gr.Row():
                back = gr.Button("Back", size="sm", min_width=60)
                forward = gr.Button("Next", size="sm", min_width=60)
        with gr.Column(scale=3, min_width=320):
            said = gr.Markdown(work.NO_FOLDER, elem_id="psalm-label-said")
            board = gr.HTML(work.label_board(LabelSession()), js_on_load=SCRIPT, elem_id="psalm-label-board")
            gr.Markdown(HINT, elem_classes="psalm-hint")
            table = gr.Dataframe(
                headers=list(LABEL_TABLE),
                datatype=["bool", "str", "str", "number"],
                column_count=(len(LABEL_TABLE), "fixed"),
                static_columns=[2, 3],
                interactive=True,
                label="Objects",
                elem_id="psalm-label-table",
            )
    holdout, run_name = training_part(loaded, session, checkpoint_text)
    views = [board, said, table, chosen]

    def show(state: LabelSession, share: float) -> tuple:
        names = work.item_names(state)
        picked = NEW_OBJECT if state.chosen is None else names[state.chosen]
        menu = gr.Dropdown([NEW_OBJECT, *names], value=picked)
        return state, work.label_board(state), work.describe_labels(state, share), work.label_rows(state), menu

    def connect(event: Callable, function: Callable, *inputs: Any, more: tuple = ()) -> None:
        def run(state: LabelSession, share: float, *values: Any) -> tuple:
            return (*show(function(state, *values), share), *(component_value for component_value in more[1:]))

        outputs = [session, *views, *more[:1]]
        event(one_sentence(run), [session, holdout, *inputs], outputs, show_progress="minimal")

    def opened(state: LabelSession, share: float, name: str) -> tuple:
        state = work.open_label_folder(state, data, name)
        return (*show(state, share), state.text, gr.Dropdown(choices=run_names(state.folder)))

    open_folder.click(one_sentence(opened), [session, holdout, relative], [session, *views, text, run_name])
    connect(uploads.upload, lambda state, paths: work.add_images(state, paths or []), uploads, more=(uploads, None))
    for event in (mode.change, text.blur):
        connect(event, work.set_mode, mode, text)
    connect(propose.click, lambda state, how, words: work.propose(work.set_mode(state, how, words), loaded.predictor), mode, text)
    connect(tool.change, lambda state, value: replace(state, tool=value), tool)
    connect(width.release, lambda state, value: replace(state, width=value), width)
    connect(chosen.input, lambda state, name: work.choose(state, _number(name)), chosen)
    connect(save.click, lambda state: work.save_labels(state))
    connect(save_next.click, lambda state: work.go_to(work.save_labels(state), state.index + 1))
    connect(back.click, lambda state: work.go_to(state, state.index - 1))
    connect(forward.click, lambda state: work.go_to(state, state.index + 1))

    @one_sentence
    def draw(state: LabelSession, share: float, how: str, words: str, event: gr.EventData) -> tuple:
        state = work.set_mode(state, how, words)
        return show(work.mark_label(state, event._data, loaded.predictor), share)

    @one_sentence
    def edit(state: LabelSession, rows: Any) -> tuple:
        state = work.read_table(state, rows.values.tolist())
        return state, work.label_board(state)

    board.draw(draw, [session, holdout, mode, text], [session, *views], show_progress="minimal")
    table.input(edit, [session, table], [session, board], show_progress="hidden")


def training_part(loaded: LoadedCheckpoint, session: gr.State, checkpoint_text: gr.Markdown) -> tuple[gr.Slider, gr.Dropdown]:
    """Lays out what trains, measures and uses; returns the share that is held out, and the name of the run."""
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
                    label="Worst (left) and best (right) predictions afterwards", columns=1, height=320, elem_id="psalm-sheets"
                )
    ticking = gr.Timer(2.0, active=False)
    views = [state_text, curve, numbers, sheets, ticking]

    def run_of(state: LabelSession, run: str) -> TrainingRun:
        if state.folder is None:
            raise ValueError("open a labelled folder first")
        return TrainingRun.of(state.folder, run)

    def show(run: TrainingRun) -> tuple:
        from pandas import DataFrame

        now = run.state()
        losses = DataFrame(now.losses, columns=["step", "loss"])
        return now.message, losses, run.numbers(), _images(run.sheets()), gr.Timer(active=now.phase == "running")

    def connect(event: Callable, function: Callable, *inputs: Any) -> None:
        def acted(state: LabelSession, run: str, *values: Any) -> tuple:
            training = run_of(state, run)
            function(training, *values)
            return show(training)

        event(one_sentence(acted), [session, name, *inputs], views, show_progress="hidden")

    connect(
        start.click,
        lambda run, number, speed, share: run.start(
            str(loaded.predictor.checkpoint), steps=int(number or 0), learning_rate=float(speed or 0), holdout=share
        ),
        steps,
        rate,
        holdout,
    )
    connect(stop.click, TrainingRun.stop)
    connect(resume.click, TrainingRun.resume)
    connect(ticking.tick, lambda run: None)
    connect(name.change, lambda run: None)

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

    measure.click(measured, [session, name], views, show_progress="hidden")
    use.click(used, [session, name], [checkpoint_text, state_text])
    return holdout, name


def _images(paths: list[str]) -> list[Any]:
    """Images in memory: gradio would refuse to show files that lie outside of its temporary folder."""
    from PIL import Image

    return [Image.open(path).convert("RGB") for path in paths]


def _number(name: str | None) -> int | None:
    first = (name or "").split(" ")[0]
    return int(first) - 1 if first.isdigit() else None
