"""The tab that labels a folder of images, fine-tunes a checkpoint on it, and uses the new one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
from gradio.events import Dependency

from . import label_session as work
from .board import SCRIPT
from .checkpoint import LoadedCheckpoint
from .fine_tuning import run_names
from .label_session import LABEL_TABLE, LABEL_TOOLS, NAMES, SENTENCE_MODE, LabelSession
from .sentences import one_sentence
from .strokes import MARK
from .training_tab import training_part

NEW_OBJECT = "a new object"
HINT = (
    f"**{MARK}**: the model finds the mask of what you click or box; with Shift or the right button it takes away what does not belong. "
    "**Brush** and **Eraser** change the chosen object. A name in the table can be rewritten. Saved without any accepted object, an image "
    "says that there is nothing."
)


def label_tab(loaded: LoadedCheckpoint, session: gr.State, checkpoint_text: gr.Markdown, data: Path) -> None:
    """Lays the tab out and connects it.

    Args:
        session: of the user, a `LabelSession`.
        checkpoint_text: the line about the loaded checkpoint.
        data: the folder whose folders may be labelled.
    """
    widgets = _label_widgets(data.name)
    holdout, run_name, show_run = training_part(loaded, session, checkpoint_text)
    views = [widgets.board, widgets.said, widgets.table, widgets.chosen]

    def show(state: LabelSession, share: float) -> tuple:
        names = work.item_names(state)
        picked = NEW_OBJECT if state.chosen is None else names[state.chosen]
        menu = gr.Dropdown([NEW_OBJECT, *names], value=picked)
        return state, work.label_board(state), work.describe_labels(state, share), work.label_rows(state), menu

    def connect(event: Callable, function: Callable, *inputs: Any) -> Dependency:
        def run(state: LabelSession, share: float, *values: Any) -> tuple:
            return show(function(state, *values), share)

        return event(one_sentence(run), [session, holdout, *inputs], [session, *views], show_progress="minimal")

    def opened(state: LabelSession, share: float, name: str) -> tuple:
        state = work.open_label_folder(state, data, name)
        return (*show(state, share), state.text, gr.Dropdown(choices=run_names(state.folder)))

    show_run(
        widgets.open_folder.click(
            one_sentence(opened), [session, holdout, widgets.relative], [session, *views, widgets.text, run_name]
        ).success
    )
    connect(widgets.uploads.upload, lambda state, paths: work.add_images(state, paths or []), widgets.uploads).then(
        lambda: None, None, [widgets.uploads]
    )
    for event in (widgets.mode.change, widgets.text.blur):
        connect(event, work.set_mode, widgets.mode, widgets.text)
    connect(
        widgets.propose.click,
        lambda state, how, words: work.propose(work.set_mode(state, how, words), loaded.predictor),
        widgets.mode,
        widgets.text,
    )
    connect(widgets.tool.change, lambda state, value: replace(state, tool=value), widgets.tool)
    connect(widgets.width.release, lambda state, value: replace(state, width=value), widgets.width)
    connect(widgets.chosen.input, lambda state, name: work.choose(state, _number(name)), widgets.chosen)
    connect(widgets.save.click, lambda state: work.save_labels(state))
    connect(widgets.save_next.click, lambda state: work.go_to(work.save_labels(state), state.index + 1))
    connect(widgets.back.click, lambda state: work.go_to(state, state.index - 1))
    connect(widgets.forward.click, lambda state: work.go_to(state, state.index + 1))

    @one_sentence
    def draw(state: LabelSession, share: float, how: str, words: str, event: gr.EventData) -> tuple:
        state = work.set_mode(state, how, words)
        return show(work.mark_label(state, event._data, loaded.predictor), share)

    @one_sentence
    def edit(state: LabelSession, rows: Any) -> tuple:
        state = work.read_table(state, rows)
        return state, work.label_board(state)

    widgets.board.draw(draw, [session, holdout, widgets.mode, widgets.text], [session, *views], show_progress="minimal")
    widgets.table.input(edit, [session, widgets.table], [session, widgets.board], show_progress="hidden")


def _label_widgets(data: str) -> SimpleNamespace:
    """Lays the tab out; `data` is the name of the page's folder."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            with gr.Group():
                relative = gr.Textbox(label=f"Folder below {data}", value=".", elem_id="psalm-label-folder")
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
                datatype=["bool", "number", "str", "str", "number"],
                type="array",
                static_columns=[1, 3, 4],
                interactive=True,
                label="Objects",
                elem_id="psalm-label-table",
            )
    return SimpleNamespace(
        relative=relative,
        open_folder=open_folder,
        uploads=uploads,
        mode=mode,
        text=text,
        propose=propose,
        tool=tool,
        chosen=chosen,
        width=width,
        save=save,
        save_next=save_next,
        back=back,
        forward=forward,
        said=said,
        board=board,
        table=table,
    )


def _number(name: str | None) -> int | None:
    first = (name or "").split(" ")[0]
    return int(first) - 1 if first.isdigit() else None
