"""The facesets service alone: `python -m services.facesets`."""

import sys

from services import facesets
from services.kit.main import host

if __name__ == "__main__":
    sys.exit(host([facesets], prog="python -m services.facesets"))
