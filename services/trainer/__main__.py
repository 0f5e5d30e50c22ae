"""The trainer service alone: `python -m services.trainer`."""

import sys

from services import trainer
from services.kit.main import host

if __name__ == "__main__":
    sys.exit(host([trainer], prog="python -m services.trainer"))
