"""Draws the pictures of docs/app.md: the page, driven in Chromium. All images in it are drawn by the shapes world.

    python docs/pictures/draw_app.py [--width 1300] [--output docs/pictures]

Takes some minutes: it labels 40 scenes that show a green star, a pair of colour and shape that psalm-tiny was not trained on, trains on
them, and measures. The drawn masks stand for the labels of a person. Needs psalm_hf[browser] and Chromium.
"""

import argparse
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from psalm_hf.app.checkpoint import LoadedCheckpoint
from psalm_hf.app.label_folder import LabelFolder
from psalm_hf.app.page import build_page, start_page, temporary_folder
from psalm_hf.data.shapes.scene import make_scene

NAME, PAIR, SCENES = "green star", ("green", "star"), 40


def label_scenes(folder: LabelFolder, first: int = 0) -> None:
    """Labels every green star of the scenes that have one, from the scene `first` of the split "unseen" on."""
    (folder.root / "images").mkdir(exist_ok=True)
    number = first
    while len(folder.image_names()) < SCENES:
        scene = make_scene("unseen", number)
        number += 1
        masks = [thing.mask for thing in scene.things if (thing.color, thing.shape) == PAIR]
        if masks:
            name = f"scene_{len(folder.image_names()):02}.png"
            Image.fromarray(scene.image).save(folder.root / "images" / name)
            folder.save_objects(name, [(NAME, mask) for mask in masks])


def shoot(page: Page, path: Path) -> None:
    page.wait_for_timeout(1500)
    page.mouse.move(0, 0)
    page.screenshot(path=path.with_suffix(".png"), full_page=True)
    Image.open(path.with_suffix(".png")).convert("RGB").save(path, quality=85)
    path.with_suffix(".png").unlink()


def place(page: Page, board: str, x: float, y: float) -> tuple[float, float]:
    page.locator(f"{board} svg").scroll_into_view_if_needed()
    script = """([board, x, y]) => {
        const point = new DOMPoint(x, y).matrixTransform(document.querySelector(`${board} svg`).getScreenCTM());
        return [point.x, point.y];
    }"""
    return tuple(page.evaluate(script, [board, x, y]))


def draw_image_tab(page: Page, output: Path) -> None:
    board = "#psalm-image-board"
    page.set_input_files("#psalm-upload input[type=file]", "examples/pictures/shapes.png")
    page.wait_for_selector(f"{board} svg")
    page.mouse.click(*place(page, board, 88, 23))
    page.wait_for_selector(f"{board} .psalm-mask")
    page.get_by_role("button", name="Next object").first.click()
    page.wait_for_timeout(1500)
    page.mouse.move(*place(page, board, 91, 61))
    page.mouse.down()
    page.mouse.move(*place(page, board, 121, 91), steps=5)
    page.mouse.up()
    page.wait_for_function("document.querySelectorAll('#psalm-image-board .psalm-mask').length === 2")
    shoot(page, output / "app_image.jpg")


def draw_chat_tab(page: Page, output: Path) -> None:
    page.get_by_role("tab", name="Chat").click()
    page.fill("#psalm-question textarea", "How many triangles are there?")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.wait_for_function("document.querySelectorAll('#psalm-chat .message').length > 1")
    page.wait_for_timeout(3000)
    page.fill("#psalm-question textarea", "the purple square")
    page.get_by_role("button", name="Show it").click()
    page.wait_for_selector("#psalm-chat-board .psalm-mask")
    shoot(page, output / "app_chat.jpg")


def draw_video_tab(page: Page, output: Path) -> None:
    page.get_by_role("tab", name="Video").click()
    page.get_by_text("shapes.mp4").first.click()
    page.wait_for_selector("#psalm-clip-board svg")
    page.mouse.click(*place(page, "#psalm-clip-board", 71, 34))
    page.wait_for_function("document.querySelector('#psalm-clip-said').innerText.includes('1 object')")
    page.get_by_role("button", name="Follow").click()
    page.wait_for_selector("#psalm-followed video", timeout=300_000)
    shoot(page, output / "app_video.jpg")


def draw_label_tab(page: Page, output: Path, steps: int) -> None:
    page.get_by_role("tab", name="Label and train").click()
    page.fill("#psalm-label-folder input, #psalm-label-folder textarea", "stars")
    page.get_by_role("button", name="Open", exact=True).click()
    page.wait_for_selector("#psalm-label-board svg")
    page.fill("#psalm-label-text input, #psalm-label-text textarea", "green star, ring, cross, diamond")
    page.get_by_role("button", name="Propose").click()
    page.wait_for_timeout(5000)
    shoot(page, output / "app_label.jpg")
    page.locator("#psalm-steps input").fill(str(steps))
    page.get_by_role("button", name="Fine-tune").click()
    wait = {"timeout": 1_200_000}
    page.wait_for_function("/is ready|failed/.test(document.querySelector('#psalm-run-state').innerText)", **wait)
    page.get_by_role("button", name="Measure before and after").click()
    page.wait_for_function("document.querySelector('#psalm-run-state').innerText.includes('Measuring')", **wait)
    page.wait_for_function("document.querySelector('#psalm-run-state').innerText.includes('is ready')", **wait)
    page.wait_for_timeout(3000)
    page.get_by_text("Train on what is labelled").first.scroll_into_view_if_needed()
    page.locator("#psalm-training").screenshot(path=output / "app_train.png")
    Image.open(output / "app_train.png").convert("RGB").save(output / "app_train.jpg", quality=85)
    (output / "app_train.png").unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1300)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--output", type=Path, default=Path("docs/pictures"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        label_scenes(LabelFolder.open(data, "stars"))
        start = build_page(LoadedCheckpoint(), stack.enter_context(temporary_folder()), data)
        address = start_page(start, port=0)  # before playwright, which leaves its event loop in this thread
        browser = stack.enter_context(sync_playwright()).chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": options.width, "height": 900})
        page.set_default_timeout(120_000)
        page.goto(address)
        page.wait_for_selector("#psalm-upload")
        draw_image_tab(page, options.output)
        draw_chat_tab(page, options.output)
        draw_video_tab(page, options.output)
        draw_label_tab(page, options.output, options.steps)
        browser.close()
        start.close(verbose=False)


if __name__ == "__main__":
    main()
