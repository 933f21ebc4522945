"""The tab of images: upload, marks, sentences, names; board, table and files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from . import image_session as work
from .board import SCRIPT
from .checkpoint import LoadedCheckpoint
from .downloads import write_downloads
from .image_session import ImageSession
from .sentences import one_sentence
from .strokes import BRUSH, MARK, TOOLS

GESTURES = (
    f"**{MARK}**: a click is a point, dragging draws a box; with Shift or the right button the point does not belong. "
    f"**{BRUSH}**: dragging draws a scribble."
)


def image_upload(**options: Any) -> gr.Image:
    """Upload of an image whose path is handed on: gradio itself would open it, and answer a broken or huge one with an error of Pillow."""
    upload = gr.Image(type="filepath", image_mode=None, **options)
    # No class of its own: gradio writes a file beside the module of each class of components.
    upload.preprocess = lambda payload: None if payload is None else payload.path
    return upload


def image_tab(loaded: LoadedCheckpoint, session: gr.State, examples: list[str], folder: Path) -> None:
    """Lays the tab out and connects it.

    Args:
        session: of the user, an `ImageSession`.
        examples: paths of images.
        folder: for files that users download.
    """
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            upload = image_upload(label="Image", sources=["upload", "clipboard", "webcam"], height=200, elem_id="psalm-upload")
            gr.Examples([[path] for path in examples], inputs=[upload], label="Drawn examples")
            with gr.Group():
                tool = gr.Radio(TOOLS, value=MARK, label="Mark objects in the image", info="Click, drag or draw on the large image.")
                with gr.Row():
                    another = gr.Button("Next object", size="sm", min_width=60)
                    undo = gr.Button("Undo", size="sm", min_width=60)
                    clear = gr.Button("Clear", size="sm", min_width=60)
            with gr.Group():
                sentences = gr.Textbox(label="or say it: one sentence per line", lines=2, placeholder="the red star\nall dotted things")
                names = gr.Textbox(label="or name it: names with commas", placeholder="star, circle, grass")
                every = gr.Checkbox(label="Every instance by itself", value=False)
            with gr.Row():
                find = gr.Button("Find the sentences", variant="primary")
                find_names = gr.Button("Find the names", variant="primary")
        with gr.Column(scale=3, min_width=320):
            board = gr.HTML(work.board_of(ImageSession()), js_on_load=SCRIPT, elem_id="psalm-image-board", label="Board")
            said = gr.Markdown(work.describe_image(ImageSession()), elem_id="psalm-said")
            gr.Markdown(GESTURES, elem_classes="psalm-hint")
            with gr.Row():
                opacity = gr.Slider(0, 1, value=0.45, step=0.05, label="Opacity", elem_id="psalm-opacity")
                least = gr.Slider(0, 1, value=work.DEFAULT_LEAST, step=0.01, label="Least score", elem_id="psalm-least")
            table = gr.Dataframe(
                headers=list(work.TABLE),
                datatype=["bool", "number", "str", "str", "number", "str"],
                type="array",
                static_columns=[1, 2, 3, 4, 5],
                interactive=True,
                label="Found",
                elem_id="psalm-table",
            )
            with gr.Row():
                make_files = gr.Button("Make files: PNG, COCO, Labelme, masks", size="sm")
            files = gr.File(label="Files", file_count="multiple", interactive=False, visible=False, elem_id="psalm-files")

    views = [board, said, table, files]

    def show(state: ImageSession) -> tuple:
        return state, work.board_of(state), work.describe_image(state), work.table_rows(state), gr.File(visible=False)

    def connect(event: Callable, function: Callable, *inputs: Any, **options: Any) -> None:
        run = one_sentence(lambda *values: show(function(*values)))
        event(run, [session, *inputs], [session, *views], show_progress="minimal", **options)

    connect(upload.change, work.look_at, upload)
    connect(another.click, work.begin_object)
    connect(undo.click, lambda state: work.undo_stroke(state, loaded.predictor))
    connect(clear.click, work.clear)
    connect(find.click, lambda state, text, each: work.find_sentences(state, text, loaded.predictor, every=each), sentences, every)
    connect(find_names.click, lambda state, text, each: work.find_names(state, text, loaded.predictor, every=each), names, every)
    connect(tool.change, lambda state, value: replace(state, tool=value), tool)
    connect(opacity.input, lambda state, value: replace(state, opacity=value), opacity, trigger_mode="always_last")
    connect(least.input, lambda state, value: replace(state, least=value), least, trigger_mode="always_last")

    @one_sentence
    def draw(state: ImageSession, event: gr.EventData) -> tuple:
        return show(work.add_stroke(state, event._data, loaded.predictor))

    @one_sentence
    def check(state: ImageSession, rows: Any) -> tuple:
        state = work.set_check_marks(state, rows)
        return state, work.board_of(state), work.describe_image(state)

    board.draw(draw, [session], [session, *views], show_progress="minimal")
    table.input(check, [session, table], [session, board, said], show_progress="hidden")
    make_files.click(one_sentence(lambda state: gr.File(write_downloads(state, folder), visible=True)), [session], [files])
