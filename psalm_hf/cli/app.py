"""Starts a page in the browser that segments what is clicked, drawn or said.

    psalm app                                  # http://127.0.0.1:7860, psalm-tiny
    psalm app --checkpoint DIR --port 8000
    psalm app --data FOLDER                    # labels the images in FOLDER, and trains on them

The page is for this machine alone, unless --host or --share says otherwise. Uploads and downloads lie in a temporary folder, which is
removed at the end (Ctrl-C). Nothing else of this machine is read or written but FOLDER (default: psalm_data, made when it is needed).
Trainings that run at the end are stopped, with a checkpoint to go on from.

Needs gradio: pip install psalm_hf[app]
"""

import argparse
import threading
from contextlib import suppress
from pathlib import Path

from ..checkpoints import resolve_checkpoint
from .command import CommandParser, add_model_options, say, suggest_bfloat16, verb


@verb
def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    resolve_checkpoint(options.checkpoint)  # what no checkpoint can be called is refused before torch is loaded
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ImportError("the page needs gradio, which is not installed: pip install psalm_hf[app]") from error

    from ..app.checkpoint import LoadedCheckpoint
    from ..app.fine_tuning import stop_all
    from ..app.page import build_page, start_page, temporary_folder
    from ..devices import compile_parts

    with temporary_folder() as folder:
        loaded = LoadedCheckpoint(options.checkpoint, device=options.device, dtype=options.dtype)
        suggest_bfloat16(loaded.predictor.model)
        if options.compile:
            compile_parts(loaded.predictor.model)
        page = build_page(loaded, folder, None if options.no_labelling else options.data)
        try:
            say(f"the page is at {start_page(page, host=options.host, port=options.port, share=options.share)}; Ctrl-C ends it")
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
        finally:
            page.close(verbose=False)
            stop_all()


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser("app", __doc__)
    parser.add_argument("--data", type=Path, default=Path("psalm_data"), help="folder of labelled images (default: psalm_data)")
    parser.add_argument("--no-labelling", action="store_true", help="for strangers: without the tab that labels and trains")
    parser.add_argument("--port", type=int, default=7860, help="of the page (default: 7860)")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 = every machine of the network may open the page (default: 127.0.0.1)")
    parser.add_argument("--share", action="store_true", help="give the page a public address for three days, through gradio's servers")
    add_model_options(parser)
    options = parser.parse_args(arguments)
    parser.check_range(options, "port", lowest=1, highest=65535)
    return options
