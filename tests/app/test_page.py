"""The page in a real browser: Chromium, driven by playwright. One server and one browser for all; every test opens a page of its own."""

import json
import re
import shutil
import zipfile
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from PIL import Image

from psalm_hf import PsalmPredictor, tiny_checkpoint
from psalm_hf.data.own.holdout import place_of
from psalm_hf.data.shapes.scene import make_scene
from psalm_hf.masks import bitmap_from_rle
from tests.test_imports import ROOT

pytestmark = pytest.mark.browser
pytest.importorskip("gradio", reason="gradio is absent: pip install psalm_hf[browser]")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is absent: pip install psalm_hf[browser]")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("Chromium is absent: apt-get install chromium", allow_module_level=True)

FILE = ROOT / "examples" / "pictures" / "shapes.png"
IMAGE, CHAT, CLIP, LABELS = "#psalm-image-board", "#psalm-chat-board", "#psalm-clip-board", "#psalm-label-board"
SECONDS = 40  # for one answer, on a busy machine


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def loaded():
    from psalm_hf.app.checkpoint import LoadedCheckpoint

    return LoadedCheckpoint(device="cpu")


@pytest.fixture(scope="module")
def address(loaded, data):
    from psalm_hf.app.fine_tuning import stop_all
    from psalm_hf.app.page import build_page, start_page, temporary_folder

    with temporary_folder() as folder:
        page = build_page(loaded, folder, data)
        yield start_page(page, port=0)
        page.close(verbose=False)
        stop_all()


@pytest.fixture(scope="module")
def browser(address):  # started after the server: playwright leaves its event loop in this thread
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser, address):
    with opened(browser, address) as page:
        yield page


@contextmanager
def opened(browser, address):
    """A page of a user of its own, which must not have had an error of JavaScript in the end."""
    errors = []
    context = browser.new_context(viewport={"width": 1300, "height": 1000}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(SECONDS * 1000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#psalm-upload")
    yield page
    context.close()
    assert errors == []


def look_at(page, file):
    page.set_input_files("#psalm-upload input[type=file]", file)
    page.wait_for_selector(f"{IMAGE} svg")


def place(page, board, x, y):
    """Place on the screen of a pixel of the image on a board."""
    page.locator(f"{board} svg").scroll_into_view_if_needed()
    return page.evaluate(
        """([board, x, y]) => {
            const point = new DOMPoint(x, y).matrixTransform(document.querySelector(`${board} svg`).getScreenCTM());
            return [point.x, point.y];
        }""",
        [board, x, y],
    )


def drag(page, board, *points):
    page.mouse.move(*place(page, board, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*place(page, board, *point), steps=5)
    page.mouse.up()


def masks_on(page, board, number):
    """Waits until a board has that many masks, and returns what the pointer on them says."""
    page.wait_for_function("([board, number]) => document.querySelectorAll(`${board} .psalm-mask`).length === number", arg=[board, number])
    return page.locator(f"{board} .psalm-mask title").all_text_contents()


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def says(page, where, text):
    """Waits until a line of the page has a text."""
    page.wait_for_function(
        "([where, text]) => document.querySelector(where)?.innerText.includes(text)", arg=[where, text], timeout=SECONDS * 1000
    )


def refusal(page, text):
    """Waits for the sentence that refuses something."""
    page.locator(".toast-body", has_text=text).first.wait_for()


def test_what_is_clicked_boxed_brushed_said_or_named_is_shown_and_downloaded(page, tmp_path):
    look_at(page, FILE)
    page.mouse.click(*place(page, IMAGE, 88, 23))
    assert masks_on(page, IMAGE, 1)[0].startswith("point 88")
    button(page, "Next object").click()
    page.wait_for_timeout(500)
    drag(page, IMAGE, (91, 61), (110, 80), (121, 91))
    assert masks_on(page, IMAGE, 2)[1].startswith("box ") or masks_on(page, IMAGE, 2)[0].startswith("box ")
    page.mouse.click(*place(page, IMAGE, 93, 63), button="right")
    page.wait_for_selector(f"{IMAGE} circle[fill='#d00']")
    says(page, "#psalm-said", "box+points")
    button(page, "Undo").click()
    page.wait_for_selector(f"{IMAGE} circle[fill='#d00']", state="detached")
    button(page, "Clear").click()
    masks_on(page, IMAGE, 0)
    page.get_by_label("Brush", exact=True).first.click()
    page.wait_for_selector(f"{IMAGE} svg[data-brush=yes]")
    drag(page, IMAGE, (26, 66), (40, 74), (26, 84))
    assert masks_on(page, IMAGE, 1)[0].startswith("scribble")

    page.get_by_label("or say it: one sentence per line").fill("the purple triangle\nall dotted things\nthe yellow moon")
    button(page, "Find the sentences").click()
    assert {title.partition(",")[0] for title in masks_on(page, IMAGE, 2)} == {"the purple triangle", "all dotted things"}
    says(page, "#psalm-said", "Not in the image: the yellow moon")

    page.get_by_label("or name it: names with commas").fill("star, triangle, grass, brick")
    button(page, "Find the names").click()
    says(page, "#psalm-said", "grass")
    expected = PsalmPredictor.from_pretrained(tiny_checkpoint(), device="cpu").predict(
        FILE, categories=["star", "triangle", "grass", "brick"]
    )
    assert len(masks_on(page, IMAGE, len(expected))) == len(expected) > 2
    button(page, "Make files: PNG, COCO, Labelme, masks").click()
    links = page.locator("#psalm-files a[download]")
    links.nth(3).wait_for()
    files = {}
    for number in range(links.count()):
        with page.expect_download() as started:
            links.nth(number).click()
        files[started.value.suggested_filename] = tmp_path / started.value.suggested_filename
        started.value.save_as(files[started.value.suggested_filename])
    assert set(files) == {"shapes_overlay.png", "shapes_coco.json", "shapes_labelme.json", "shapes_masks.zip"}
    with zipfile.ZipFile(files["shapes_masks.zip"]) as archive:
        stored = [np.asarray(Image.open(archive.open(name))) for name in sorted(archive.namelist())]
    found = [bitmap_from_rle(entry["segmentation"]) for entry in json.loads(files["shapes_coco.json"].read_text())["annotations"]]
    # The page has read the beginning of an earlier prompt: pixels whose logit is almost 0 may change sides.
    assert len(stored) == len(found) == len(expected)
    assert all((np.stack(masks) != expected.masks).mean() < 1e-4 for masks in (np.stack(stored) > 0, found))
    assert (np.stack(stored).astype(bool) == np.stack(found)).all()


def test_check_marks_and_sliders_hide_masks(page):
    look_at(page, FILE)
    page.get_by_label("or name it: names with commas").fill("triangle, cross, star")
    page.get_by_label("Every instance by itself").check()
    button(page, "Find the names").click()
    masks_on(page, IMAGE, 5)
    page.locator("#psalm-table input[type=checkbox]").nth(1).click()
    masks_on(page, IMAGE, 4)
    least = page.locator("#psalm-least input[type=number]")
    least.fill("0.99")
    least.blur()
    masks_on(page, IMAGE, 0)
    says(page, "#psalm-said", "5 more with a lower score or without a check mark")


def test_a_conversation_answers_and_shows(page):
    look_at(page, FILE)
    page.get_by_role("tab", name="Chat").click()
    page.fill("#psalm-question textarea", "How many triangles are there?")
    button(page, "Ask").click()
    says(page, "#psalm-chat", "2")
    page.wait_for_function("() => document.querySelector('#psalm-question textarea').value === ''")  # the answer empties it
    page.fill("#psalm-question textarea", "the blue circle")
    button(page, "Show it").click()
    assert masks_on(page, CHAT, 1)[0].startswith("the blue circle")
    button(page, "Forget what was said").click()
    page.wait_for_function("() => !document.querySelector('#psalm-chat').innerText.includes('triangles')")


def test_objects_are_followed_through_the_example_and_a_run_can_be_stopped(page):
    page.get_by_role("tab", name="Video").click()
    page.get_by_text("shapes.mp4").first.click()
    page.wait_for_selector(f"{CLIP} svg")
    page.mouse.click(*place(page, CLIP, 71, 34))
    says(page, "#psalm-clip-said", "1 object to follow")
    button(page, "Next object").last.click()
    page.wait_for_timeout(500)
    drag(page, CLIP, (16, 20), (46, 66))
    says(page, "#psalm-clip-said", "2 objects to follow")
    button(page, "Follow").click()
    says(page, "#psalm-clip-progress", "frame ")
    button(page, "Stop").first.click()
    says(page, "#psalm-clip-progress", "Stopped.")
    page.wait_for_timeout(1500)  # until gradio has forgotten the event that was cancelled
    button(page, "Follow").click()
    says(page, "#psalm-clip-progress", "16 frames are done")
    page.wait_for_selector("#psalm-followed video")
    page.wait_for_selector("#psalm-clip-masks a[download]")


def test_three_images_are_labelled_a_checkpoint_is_fine_tuned_and_used(page, tmp_path, loaded):
    names = [f"image_{number}" for number in range(40)]
    held_out = next(name for name in names if place_of(f"images/{name}") < 0.2)
    others = [name for name in names if place_of(f"images/{name}") >= 0.2][:2]
    files = [tmp_path / f"{name}.png" for name in (held_out, *others)]
    for number, file in enumerate(files):
        Image.fromarray(make_scene("test", number).image).save(file)

    page.get_by_role("tab", name="Label and train").click()
    page.fill("#psalm-label-folder input, #psalm-label-folder textarea", "mine")
    button(page, "Open").click()
    says(page, "#psalm-label-said", "has no images yet")
    page.set_input_files("#psalm-label-uploads input[type=file]", files)
    page.wait_for_selector(f"{LABELS} svg")
    page.fill("#psalm-label-text input, #psalm-label-text textarea", "circle, square, triangle, star, cross, ring, diamond, moon")
    for number in range(1, 4):
        says(page, "#psalm-label-said", f"image {number} of 3")
        button(page, "Propose").click()
        page.wait_for_selector(f"{LABELS} .psalm-mask")
        if number == 1:  # one more, by the brush
            page.locator("#psalm-label-tool").get_by_label("Brush", exact=True).click()
            page.wait_for_selector(f"{LABELS} svg[data-brush=yes]")
            before = page.locator(f"{LABELS} .psalm-mask").count()
            drag(page, LABELS, (10, 120), (30, 120))
            masks_on(page, LABELS, before + 1)
        button(page, "Save, next").click()
    says(page, "#psalm-label-said", "3 labelled, of which 1 are held out")

    page.locator("#psalm-steps input").fill("5")
    button(page, "Fine-tune").click()
    says(page, "#psalm-run-state", "trains")
    button(page, "Fine-tune").click()
    refusal(page, "is training already")
    page.wait_for_function("() => /is ready|failed/.test(document.querySelector('#psalm-run-state').innerText)", timeout=3 * SECONDS * 1000)
    assert "is ready: 5 of 5 steps" in page.inner_text("#psalm-run-state")
    button(page, "Use it").click()
    says(page, "#psalm-checkpoint", "trained on drawn shapes, own_coco")
    assert loaded.predictor.checkpoint.endswith("mine/runs/first/checkpoint")
    page.get_by_role("tab", name="Image").click()
    look_at(page, files[0])
    page.mouse.click(*place(page, IMAGE, 55, 32))
    masks_on(page, IMAGE, 1)


def test_what_is_refused_is_said_in_one_sentence_and_the_page_lives_on(page, tmp_path):
    Image.new("1", (20_000, 10_000)).save(tmp_path / "huge.png")
    (tmp_path / "text.png").write_text("I am a text.")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    page.set_input_files("#psalm-upload input[type=file]", tmp_path / "huge.png")
    refusal(page, "huge.png: has far more than 16 million pixels; make it smaller first")
    page.reload()
    page.set_input_files("#psalm-upload input[type=file]", tmp_path / "text.png")
    refusal(page, "text.png: is no image that can be read; save it as PNG or JPEG")
    page.get_by_role("tab", name="Video").click()
    page.set_input_files("#psalm-clip input[type=file]", tmp_path / "broken.mp4")
    refusal(page, "broken.mp4: not a video that can be read")
    page.get_by_role("tab", name="Label and train").click()
    page.fill("#psalm-label-folder input, #psalm-label-folder textarea", "../../etc")
    button(page, "Open").click()
    refusal(page, "../../etc: lies outside of the folder")
    page.reload()
    page.wait_for_selector("#psalm-upload")
    look_at(page, FILE)
    page.mouse.click(*place(page, IMAGE, 88, 23))
    masks_on(page, IMAGE, 1)


def test_eight_users_at_once_get_what_belongs_to_their_images(browser, address, loaded, tmp_path):
    scenes = [make_scene("test", number) for number in range(8)]
    places = [tuple(map(int, scene.things[-1].position)) for scene in scenes]  # of the thing in front
    for number, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(tmp_path / f"{number}.png")
    with ExitStack() as stack:
        pages = [stack.enter_context(opened(browser, address)) for _ in scenes]
        for number, page in enumerate(pages):
            page.set_input_files("#psalm-upload input[type=file]", tmp_path / f"{number}.png")
        for page in pages:
            page.wait_for_selector(f"{IMAGE} svg")
        for page, spot in zip(pages, places, strict=True):  # nobody waits for the answer of another
            page.mouse.click(*place(page, IMAGE, *spot))
        for number, (page, (x, y)) in enumerate(zip(pages, places, strict=True)):
            says(page, "#psalm-said", "1 instance")
            (title,) = masks_on(page, IMAGE, 1)
            point = [float(value) for value in re.findall(r"[\d.]+", title)[:2]]
            assert abs(point[0] - x) < 2 and abs(point[1] - y) < 2
            expected = loaded.predictor.predict(tmp_path / f"{number}.png", regions={"point": point})
            assert title.endswith(f"{expected.areas[0]} pixels")


def test_files_of_this_machine_are_not_handed_out(page, address, data):
    (data / "file.txt").write_text("words of the file")
    for path in (data / "file.txt", "/etc/passwd", ROOT / "setup.cfg"):
        answer = page.request.get(f"{address.rstrip('/')}/gradio_api/file={path}")
        assert answer.status in (403, 404) and "words of the file" not in answer.text()
