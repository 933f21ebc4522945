"""Wide scenes: many things of the usual size in pixels, some large ones, and masks that cover the image once."""

import hashlib

import pytest

from psalm_hf.data.shapes.wide import make_wide_scene


def test_a_wide_scene_has_many_things_of_the_usual_size_and_some_that_no_usual_image_holds():
    scenes = [make_wide_scene("test", index) for index in range(4)]
    for scene in scenes:
        assert scene.image.shape == (512, 512, 3) and 48 <= len(scene.things) <= 132
        covered = sum(thing.mask.astype(int) for thing in scene.things) + sum(mask.astype(int) for mask in scene.stuff.values())
        assert (covered == 1).all()
        large = [thing for thing in scene.things if thing.full_area > 40**2]
        assert 1 <= len(large) <= 4 and all(thing.full_area > 74**2 for thing in large)
        assert all(12**2 < thing.full_area < 30**2 for thing in scene.things if thing not in large)
    assert not any(thing.is_held_out for scene in scenes for thing in scene.things)


def test_a_wide_scene_is_the_same_everywhere():
    scene = make_wide_scene("validation", 7, image_size=256)
    assert hashlib.sha256(scene.image.tobytes()).hexdigest()[:16] == "f1e003fad9555b3a"
    assert (scene.image == make_wide_scene("validation", 7, image_size=256).image).all()
    assert (scene.image != make_wide_scene("test", 7, image_size=256).image).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("unseen", 0), "unknown split"), (("test", -1), "index"), (("test", 0, 200), "256 to 768"), (("test", 0, 300), "a multiple of 128")],
)
def test_other_wide_scenes_are_refused(arguments, message):
    split, index, *size = arguments
    with pytest.raises(ValueError, match=message):
        make_wide_scene(split, index, image_size=size[0] if size else 512)
