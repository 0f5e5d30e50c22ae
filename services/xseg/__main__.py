"""The xseg service alone: `python -m services.xseg`."""

import sys

from services import xseg
from services.kit.main import host

if __name__ == "__main__":
    sys.exit(host([xseg], prog="python -m services.xseg"))
