"""The merge service alone: `python -m services.merge`."""

import sys

from services import merge
from services.kit.main import host

if __name__ == "__main__":
    sys.exit(host([merge], prog="python -m services.merge"))
