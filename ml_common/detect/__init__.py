"""Finding faces and their landmarks: boxes, 68 points and the 468-point mesh, from pictures of any size.

What a reader would get wrong: the weights are not here. ``load_default_finder`` takes the folder that ``understudy
weights fetch`` filled.
"""

from ml_common.detect.finder import FaceFinder, load_default_finder
from ml_common.detect.types import Detection, FoundFace

__all__ = ["Detection", "FaceFinder", "FoundFace", "load_default_finder"]
