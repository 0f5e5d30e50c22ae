"""The frames service alone: `python -m services.frames`."""

import sys

from services import frames
from services.kit.main import host

if __name__ == "__main__":
    sys.exit(host([frames], prog="python -m services.frames"))
