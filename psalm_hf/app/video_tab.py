"""The tab of videos: objects of the first frame, followed to the last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from . import clip_session as work
from .board import SCRIPT
from .checkpoint import LoadedCheckpoint
from .clip_session import ClipProgress, ClipSession
from .sentences import one_sentence
from .strokes import MARK, TOOLS


def video_tab(loaded: LoadedCheckpoint, session: gr.State, example: str | None, folder: Path) -> None:
    """Lays the tab out and connects it.

    Args:
        session: of the user, a `ClipSession`.
        example: path of a video; None = there is none.
        folder: for what is written.
    """
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            upload = gr.File(label="Video", file_types=["video"], type="filepath", height=120, elem_id="psalm-clip")
            if example is not None:
                gr.Examples([[example]], inputs=[upload], label="Drawn example")
            with gr.Group():
                tool = gr.Radio(TOOLS, value=MARK, label="Mark objects in the first frame")
                with gr.Row():
                    another = gr.Button("Next object", size="sm", min_width=60)
                    undo = gr.Button("Undo", size="sm", min_width=60)
            with gr.Group():
                sentences = gr.Textbox(label="or say it: one object per line", lines=2, placeholder="the red star")
                find = gr.Button("Find in the first frame")
            with gr.Row():
                follow = gr.Button("Follow", variant="primary", min_width=100)
                stop = gr.Button("Stop", min_width=100)
            progress = gr.Markdown("", elem_id="psalm-clip-progress")
        with gr.Column(scale=3, min_width=320):
            board = gr.HTML(work.clip_board(ClipSession()), js_on_load=SCRIPT, elem_id="psalm-clip-board")
            said = gr.Markdown(work.describe_clip(ClipSession()), elem_id="psalm-clip-said")
            video = gr.Video(label="Followed", interactive=False, visible=False, autoplay=True, elem_id="psalm-followed")
            masks = gr.File(label="Masks: PNG as of DAVIS, values are object numbers", visible=False, elem_id="psalm-clip-masks")

    views = [board, said]

    def show(clip: ClipSession) -> tuple:
        return clip, work.clip_board(clip), work.describe_clip(clip)

    def connect(event: Callable, function: Callable, *inputs: Any) -> None:
        event(one_sentence(lambda *values: show(function(*values))), [session, *inputs], [session, *views], show_progress="minimal")

    connect(upload.change, lambda clip, path: work.open_clip(path), upload)
    connect(another.click, work.begin_clip_object)
    connect(undo.click, work.undo_clip)
    connect(tool.change, lambda clip, value: replace(clip, tool=value), tool)
    connect(find.click, lambda clip, text: work.find_in_clip(clip, text, loaded.predictor), sentences)

    @one_sentence
    def draw(clip: ClipSession, event: gr.EventData) -> tuple:
        return show(work.mark_clip(clip, event._data))

    @one_sentence
    def run(clip: ClipSession) -> Iterator[tuple]:
        for step in work.follow_clip(clip, loaded.predictor, folder):
            if isinstance(step, ClipProgress):
                yield f"{step}", gr.Video(visible=False), gr.File(visible=False)
            else:
                yield step["said"], gr.Video(step["video"], visible=True), gr.File(step["masks"], visible=True)

    board.draw(draw, [session], [session, *views], show_progress="minimal")
    running = follow.click(run, [session], [progress, video, masks], show_progress="hidden")
    stop.click(lambda: "Stopped.", None, [progress], cancels=[running])
