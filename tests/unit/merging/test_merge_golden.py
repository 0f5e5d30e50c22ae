"""Merged frames against those of DeepFaceLab (tests/golden/merge).

The golden frames were made with another version of OpenCV, whose bicubic warp rounds coordinates differently: on these
hard-edged drawings that alone makes single pixels differ by up to 9 grey levels, and 0.12 on average over the frame.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ml_common.geometry import FaceType
from ml_common.merging import MergeFace, MergeSettings, Prediction, merge_frame, network_crop

GOLDEN = Path(__file__).parents[2] / "golden" / "merge"
CASES = json.loads((GOLDEN / "cases.json").read_text())
FRAME = cv2.imread(str(GOLDEN / "frame.png"))
LANDMARKS = np.load(GOLDEN / "landmarks.npz")
MASKS = np.load(GOLDEN / "predictor.npz")
COLOR_CODES = ("none", "rct", "lct", "mkl", "mkl-m", "idt", "idt-m", "sot-m", "mix-m")
MASK_CODES = (
    "full",
    "dst",
    "learned-prd",
    "learned-dst",
    "learned-prd*learned-dst",
    "learned-prd+learned-dst",
)
# (mean, largest) difference of a colour value in grey levels of 255; everything unnamed has the first.
USUAL = (0.12, 9)
TOLERANCES = {
    "mode_original": (0.0, 0),
    "mode_hist-match": (0.2, 85),  # neighbouring values of a flat colour swap ranks
    "ct_idt": (0.8, 25),  # the original drew other rotations
    "ct_mix-m": (1.1, 100),  # 8-bit lightness and colour, and other directions
}


def settings_of(case, flavour):
    cfg = case["cfg"]
    return MergeSettings(
        mode=cfg["mode"],
        mask_mode=MASK_CODES[cfg["mask_mode"]],
        erode=cfg["erode_mask_modifier"],
        blur=cfg["blur_mask_modifier"],
        color_transfer=COLOR_CODES[cfg["color_transfer_mode"]],
        face_scale=cfg["output_face_scale"],
        masked_hist_match=cfg["masked_hist_match"],
        hist_match_threshold=cfg["hist_match_threshold"],
        flavour=flavour,
    )


def merged(name, flavour):
    case = CASES[name]
    face_type = FaceType(case["cfg"]["face_type"])
    chosen = ["face2"] if name == "no_faces_skip" else ["face1", "face2"][: case["faces"]]
    faces = []
    for key in chosen:
        crop = network_crop(FRAME, LANDMARKS[key], face_type, 64, flavour=flavour)
        swapped = np.clip(crop[..., ::-1] * np.float32(0.7) + np.float32(0.2), 0, 1)
        faces.append(MergeFace(LANDMARKS[key], Prediction(swapped, MASKS["mask_src"], MASKS["mask_dst"])))
    return merge_frame(FRAME, faces, face_type, settings_of(case, flavour))


@pytest.mark.parametrize("name", CASES)
def test_the_reference_flavour_is_the_original(name):
    expected = cv2.imread(str(GOLDEN / f"{name}.png"), cv2.IMREAD_UNCHANGED).astype(int)
    result = merged(name, "reference")
    difference = np.abs(result.image_bgr_HWC.astype(int) - expected[..., :3])
    mean, largest = TOLERANCES.get(name, USUAL)
    assert difference.mean() <= mean
    assert difference.max() <= largest
    mask_difference = np.abs((result.mask_HW * 255).astype(int) - expected[..., 3])
    assert mask_difference.max() <= 5
    assert mask_difference.mean() <= 0.25


@pytest.mark.parametrize("name", CASES)
def test_the_default_flavour_is_near_it_in_shape(name):
    expected = cv2.imread(str(GOLDEN / f"{name}.png"), cv2.IMREAD_UNCHANGED)[..., 3] / 255.0
    ours = merged(name, "default").mask_HW
    # Its mask is 3/8 of a model pixel (about one pixel of this frame) off the original's, on purpose.
    assert np.abs(ours - expected).mean() < 0.012
    assert ours.sum() == pytest.approx(expected.sum(), rel=0.03)


def test_masked_statistics_bring_the_skin_nearer_to_the_footage():
    # The stand-in model swaps blue and red; the colour transfer has to bring the skin of the drawing back.
    face = cv2.erode((merged("mode_overlay", "reference").mask_HW > 0.99).astype(np.uint8), np.ones((9, 9))) > 0
    distance = {
        flavour: np.abs(merged("mode_overlay", flavour).image_bgr_HWC[face].astype(int) - FRAME[face]).mean()
        for flavour in ("default", "reference")
    }
    assert distance["default"] < 0.5 * distance["reference"]
