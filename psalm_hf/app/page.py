"""The page: its tabs, and the server that gives it to a browser."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ..data.shapes.moving import make_clip
from ..data.shapes.scene import make_scene
from ..video import write_video
from .board import STYLE
from .chat_tab import chat_tab
from .checkpoint import LoadedCheckpoint
from .clip_session import ClipSession
from .image_session import ImageSession
from .image_tab import image_tab
from .label_session import LabelSession
from .label_tab import label_tab
from .limits import LIMITS
from .video_tab import video_tab

HOST, PORT = "127.0.0.1", 7860
CONCURRENT = 8  # users whose clicks are taken at the same time; the model itself computes for one after the other
STATE_SECONDS = 3600  # after which the work of a user who has closed the page is forgotten
EXAMPLES = (3, 11, 17, 28)  # scenes of the split that training never sees
EXAMPLE_CLIP, EXAMPLE_FRAMES, EXAMPLE_RATE = 4, 16, 8.0
CSS = f"""{STYLE}
.gradio-container {{max-width: 1500px !important}}
.psalm-hint {{opacity: 0.75; font-size: 0.85em}}
"""


def build_page(loaded: LoadedCheckpoint, folder: Path, data: Path | None = None) -> gr.Blocks:
    """Builds the page.

    Args:
        loaded: the checkpoint that answers.
        folder: temporary; files for users are written there.
        data: folder whose folders are labelled and trained on; None = a page without that tab, as for strangers.
    """
    examples = write_examples(folder)
    with gr.Blocks(title="PSALM", analytics_enabled=False, delete_cache=(STATE_SECONDS, STATE_SECONDS)) as page:
        gr.Markdown("# PSALM: click, draw, say it")
        about = gr.Markdown(loaded.describe, elem_id="psalm-checkpoint")
        session = gr.State(ImageSession(), time_to_live=STATE_SECONDS)
        with gr.Tab("Image"):
            image_tab(loaded, session, examples, folder)
        with gr.Tab("Chat") as tab:
            chat_tab(loaded, session, tab)
        with gr.Tab("Video"):
            video_tab(loaded, gr.State(ClipSession(), time_to_live=STATE_SECONDS), write_example_clip(folder), folder)
        if data is not None:
            with gr.Tab("Label and train"):
                label_tab(loaded, gr.State(LabelSession(), time_to_live=STATE_SECONDS), about, data)
    return page.queue(default_concurrency_limit=CONCURRENT, max_size=100, api_open=False)


def write_examples(folder: Path) -> list[str]:
    """Writes drawn scenes as PNG files; returns their paths."""
    (folder / "examples").mkdir(parents=True, exist_ok=True)
    paths = []
    for number in EXAMPLES:
        path = folder / "examples" / f"shapes_{number}.png"
        Image.fromarray(make_scene("test", number, image_size=512).image).save(path)
        paths.append(str(path))
    return paths


def write_example_clip(folder: Path) -> str | None:
    """Writes a drawn clip as a video file; returns its path, or None without PyAV."""
    clip = make_clip("test", EXAMPLE_CLIP)
    path = folder / "examples" / "shapes.mp4"
    try:
        write_video(path, (Image.fromarray(clip.frame(number).image) for number in range(EXAMPLE_FRAMES)), EXAMPLE_RATE)
    except ImportError:
        return None
    return str(path)


def start_page(page: gr.Blocks, *, host: str = HOST, port: int = PORT, share: bool = False) -> str:
    """Starts the server and returns; the address of the page."""
    _, local, public = page.launch(
        server_name=host,
        server_port=port or None,  # 0 = any that is free
        share=share,
        prevent_thread_lock=True,
        quiet=True,
        show_error=True,
        max_file_size=LIMITS.upload_bytes,
        state_session_capacity=LIMITS.sessions,
        allowed_paths=[],
        ssr_mode=False,
        enable_monitoring=False,
        footer_links=[],
        css=CSS,
    )
    return public or local


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """The only folder whose files the page hands out; gradio keeps uploads there too. It is removed at the end."""
    before: Any = os.environ.get("GRADIO_TEMP_DIR")
    with tempfile.TemporaryDirectory(prefix="psalm_app_") as name:
        os.environ["GRADIO_TEMP_DIR"] = name
        try:
            yield Path(name)
        finally:
            if before is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before
