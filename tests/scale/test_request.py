"""Requests of the HTTP service: what is read, what is refused and with which words. Nothing here needs Ray or a model."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pydantic")

from psalm_hf.masks import rle_from_bitmap
from psalm_hf.scale import request
from psalm_hf.scale.request import SERVICE_LIMITS, RefusedRequest, read_request

PIXELS = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, format=form, **options)
    return base64.b64encode(file.getvalue()).decode()


IMAGE = encoded(Image.fromarray(PIXELS))


def body(**fields):
    return json.dumps({"image": IMAGE, **fields}).encode()


def refused(content):
    with pytest.raises(RefusedRequest) as caught:
        read_request(content)
    return caught.value


def test_a_request_is_an_image_and_the_arguments_of_predict():
    mask = rle_from_bitmap(np.eye(6, 5, dtype=bool))
    regions = [{"point": [1, 2]}, {"points": [[1, 2], [3, 4]], "labels": [1, 0]}, {"mask": mask}]
    asked = read_request(body(regions=regions, mask_threshold=0.25, masks="png"))
    assert np.array_equal(np.asarray(asked.image), PIXELS)
    given = json.loads(json.dumps(asked.prompt))  # tuples as lists
    assert given["regions"] == regions and given["mask_threshold"] == 0.25 and asked.masks == "png"
    assert not {"image", "masks", "categories", "question"} & given.keys()


def test_one_expression_or_region_needs_no_list():
    assert read_request(body(expressions="the cup")).prompt["expressions"] == ["the cup"]
    asked = read_request(body(regions={"point": [1, 2]}))
    assert asked.prompt["regions"] == [{"point": (1, 2)}] and asked.num_rows == 1


def test_an_image_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    turned = encoded(Image.fromarray(PIXELS), "JPEG", exif=exif)
    assert read_request(body(image=turned, categories=["cup"])).image.size == (6, 5)


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({}, "", "expected one kind of prompt, got none"),
        ({"categories": ["a"], "question": "b"}, "", "got categories and question"),
        ({"categories": []}, "categories", "at least 1 item"),
        ({"categories": ["a", 3]}, "categories.1", "valid string"),
        ({"categories": [""]}, "categories.0", "at least 1 character"),
        ({"categories": ["a" * 2001]}, "categories.0", "at most 2000 characters"),
        ({"categories": ["a"] * 2001}, "categories", "at most 2000 items"),
        ({"expressions": ["a"] * 65}, "expressions", "at most 64 items"),
        ({"expressions": ["a", ""]}, "expressions.1", "at least 1 character"),
        ({"expressions": ""}, "expressions", "at least 1 character"),
        ({"regions": {"box": [1, 2, 3]}}, "regions.box.3", "required"),
        ({"categories": ["a"], "treshold": 0.5}, "treshold", "there is no such field"),
        ({"categories": ["a"], "threshold": "0.5"}, "threshold", "valid number"),
        ({"categories": ["a"], "threshold": 1.5}, "threshold", "less than or equal to 1"),
        ({"categories": ["a"], "threshold": float("nan")}, "threshold", "finite"),
        ({"regions": [{"point": [1, float("inf")]}]}, "regions.0.point.1", "finite"),
        ({"regions": [{"box": [1, 2, 3]}]}, "regions.0.box.3", "required"),
        ({"regions": [{"circle": [1, 2]}]}, "regions.0.circle", "there is no such field"),
        ({"regions": [{"mask": "/etc/passwd"}]}, "regions.0.mask", "object"),
        ({"regions": [{"mask": {"size": [10**9, 5], "counts": "0"}}]}, "regions.0.mask.size.0", "less than or equal to 16000000"),
        ({"regions": [{"points": [[1, 1]] * 1001}]}, "regions.0.points", "at most 1000 items"),
        ({"question": "a", "max_new_tokens": 513}, "max_new_tokens", "less than or equal to 512"),
        ({"question": "a", "image": "https://example.org/cat.png"}, "image", "URLs and paths are not read"),
        ({"question": "a", "image": "/etc/passwd"}, "image", "URLs and paths are not read"),
        ({"question": "a", "image": "AAAA"}, "image", "no image that can be read"),
        ({"question": "a", "image": IMAGE[:60]}, "image", "damaged"),
        ({"question": "a", "image": encoded(Image.fromarray(PIXELS), "PPM")}, "image", "is of the format PPM, expected one of PNG, JPEG"),
        ({"question": "a", "image": encoded(Image.fromarray(PIXELS), "EPS")}, "image", "no image that can be read"),
        ({"expressions": ["a"], "masks": "label_map"}, "", "masks: a label_map has one segment per pixel"),
        ({"categories": ["a"], "instances": True, "masks": "label_map"}, "", "ask for png"),
        ({"categories": ["a"], "masks": "bitmap"}, "masks", "'rle', 'polygons', 'png' or 'label_map'"),
    ],
)
def test_what_is_wrong_is_refused_with_its_field(fields, field, message):
    refusal = refused(body(**fields))
    assert refusal.status == 422
    assert [name for name, _ in refusal.problems] == [field]
    assert message in refusal.problems[0][1]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 10**6, b'{"image": ' * 10**5, b"null", b'"text"', b"[1, 2]"])
def test_what_is_no_json_object_is_refused(content):
    assert refused(content).status == 422


def test_a_refusal_repeats_nothing_that_came_and_stays_short():
    secret = "secret" * 300
    refusal = refused(
        json.dumps({"image": [secret], "categories": secret, **{f"field {number}": secret for number in range(1000)}}).encode()
    )
    assert "secret" not in str(refusal) and len(str(refusal)) < 1000
    assert refusal.problems[-1] == ("", "and 992 more")
    assert len(str(refused(json.dumps({"image": IMAGE, "question": "a", "b" * 10**6: 1}).encode()))) < 200


def test_an_image_with_too_many_pixels_is_refused_before_a_pixel_is_decoded(monkeypatch):
    monkeypatch.setattr(request, "load_image", lambda file: pytest.fail("was decoded"))
    for side in (4001, 20_000):  # above the limit, and above that of Pillow itself
        refusal = refused(body(question="a", image=encoded(Image.new("1", (side, side)))))
        assert refusal.status == 413 and refusal.problems[0][0] == "image" and "at most 16000000 are taken" in str(refusal)


def test_many_masks_of_a_large_image_are_refused():
    image = encoded(Image.new("1", (4000, 4000)))
    assert read_request(body(image=image, expressions=["a"] * 16)).num_rows == 16
    refusal = refused(body(image=image, expressions=["a"] * 17))
    assert refusal.status == 413 and "expressions: 17 masks of 4000 x 4000 pixels" in str(refusal)


def test_a_body_beyond_the_limit_is_refused():
    assert refused(b" " * (SERVICE_LIMITS.body_bytes + 1)).status == 413
