"""Talking heads with exact ground truth: the oracle of detection, alignment, masks and swaps.

A head is a mesh over an anatomical surface, with painted skin, eyes that look, lids that close and a mouth that opens.
Landmarks are points of that same surface. What a reader would get wrong: `render(A, state)` for a state of B's clip is
the exact truth of swapping A into that clip: pose, expression, light, place, clothing and background are the state's,
so outside the two head masks the pictures agree bit for bit.

Nothing here is random except through a seed; frames are uint8 BGR; points are (x, y) with pixel centres at integers.
"""

from ml_common.synthetic.audio import tone
from ml_common.synthetic.identity import IDENTITIES, HairStyle, Identity
from ml_common.synthetic.performance import performance
from ml_common.synthetic.renderer import RenderedFrame, render, render_clip
from ml_common.synthetic.scene import Expression, FrameState, Light, Occluder, OccluderKind

__all__ = [
    "IDENTITIES",
    "Expression",
    "FrameState",
    "HairStyle",
    "Identity",
    "Light",
    "Occluder",
    "OccluderKind",
    "RenderedFrame",
    "performance",
    "render",
    "render_clip",
    "tone",
]
