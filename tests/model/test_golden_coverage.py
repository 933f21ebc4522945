"""No recorded tensor is left out: every case of the folder belongs to one of the golden tests."""

import pytest

from tests.model import golden, test_golden_forward, test_golden_losses, test_golden_postprocessing

pytestmark = pytest.mark.golden

# Cases whose outputs are compared tensor by tensor, or whose numbers lie in a JSON file beside them.
COMPARED = [
    *test_golden_forward.FORWARD,
    *test_golden_forward.SWIN,
    *test_golden_forward.PIXEL_DECODER,
    *test_golden_forward.CHAT,
    *test_golden_losses.FORMULAS,
    *test_golden_losses.LOSSES,
    *golden.cases_with("in.last.pred_masks"),  # crafted criterion
    *golden.cases_with("in.feature_map", "in.mask_few"),  # region pooling
    *test_golden_postprocessing.CASES,
]


def test_every_recorded_case_is_compared():
    recorded = golden.index()["tensors_and_cases"]
    assert sorted(recorded) == sorted(COMPARED)


def test_every_post_processing_output_is_compared():
    """The post-processing tests read fixed names: nothing else may be recorded."""
    read = {"sem_seg", "panoptic_seg", "scores", "pred_classes", "pred_masks", "gt"}
    for case, name in golden.outputs_of(test_golden_postprocessing.CASES):
        assert name.removeprefix("out.") in read, (case, name)


def test_every_file_is_a_case_and_every_case_a_file():
    files = {file.stem for file in (golden.GOLDEN / "tiny").glob("*.safetensors")}
    assert files == set(golden.index()["tensors_and_cases"])
