"""The faces service alone: `python -m services.faces`."""

import sys

from services import faces
from services.kit.main import host

if __name__ == "__main__":
    sys.exit(host([faces], prog="python -m services.faces"))
