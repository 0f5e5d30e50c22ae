"""The servers: one folder a service, all of the same shape, on what ``services.kit`` gives them.

A service imports ``ml_common`` and ``services.kit`` and never another service. `python -m services` hosts all of them in one process.
"""
