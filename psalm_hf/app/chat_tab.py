"""The tab of conversations about the image of the first tab."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from . import image_session as work
from .checkpoint import LoadedCheckpoint
from .image_session import ImageSession
from .sentences import one_sentence

ABOUT = "Asks about the image of the tab **Image**. *Ask* answers in words; *Show it* outlines what the words mean."


def chat_tab(loaded: LoadedCheckpoint, session: gr.State, tab: gr.Tab) -> None:
    """Lays the tab out and connects it.

    Args:
        session: of the user, an `ImageSession`.
        tab: that this is; its image is brought up to date when it is opened.
    """
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            gr.Markdown(ABOUT, elem_classes="psalm-hint")
            chat = gr.Chatbot(label="Conversation", height=420, buttons=[], render_markdown=False, elem_id="psalm-chat")
            question = gr.Textbox(label="Question, or what to show", placeholder="How many rings are there?", elem_id="psalm-question")
            with gr.Row():
                ask = gr.Button("Ask", variant="primary", min_width=80)
                show_it = gr.Button("Show it", min_width=80)
                forget = gr.Button("Forget what was said", min_width=80)
        with gr.Column(scale=2, min_width=300):
            board = gr.HTML(work.board_of(ImageSession()), elem_id="psalm-chat-board")

    def show(state: ImageSession) -> tuple:
        return state, [{"role": turn.role, "content": turn.text} for turn in state.turns], work.board_of(state, is_frozen=True)

    def connect(event: Callable, function: Callable, *inputs: Any, clears: bool = False) -> None:
        outputs = [session, chat, board, *([question] if clears else [])]

        def run(state: ImageSession, *values: Any) -> tuple:
            return (*show(function(state, *values)), *([""] if clears else []))

        event(one_sentence(run), [session, *inputs], outputs, show_progress="minimal")

    connect(tab.select, lambda state: state)
    for event in (ask.click, question.submit):
        connect(event, lambda state, text: work.ask(state, text, loaded.predictor), question, clears=True)
    connect(show_it.click, lambda state, text: work.outline(state, text, loaded.predictor), question, clears=True)
    for event in (forget.click, chat.clear):
        connect(event, work.forget)
