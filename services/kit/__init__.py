"""What every service shares: settings, server, errors, storage, operations, executors. Services import this and ``ml_common``, nothing
else of each other."""

import os

# Ray and the media tools are started by fork+exec, which is safe; gRPC's fork handlers only fill the log with warnings about it. Must be
# set before grpc is first imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
