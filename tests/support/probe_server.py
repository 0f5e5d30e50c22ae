"""A process that hosts the probe service: `python -m tests.support.probe_server`, with the flags of every server."""

import sys

from services.kit.main import host
from tests.support import probe_service

if __name__ == "__main__":
    sys.exit(host([probe_service], prog="python -m tests.support.probe_server"))
