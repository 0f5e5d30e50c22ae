"""docs/map.md names every RPC, and everything that it names is there. What it calls served is served, and the rest is not."""

from __future__ import annotations

import importlib
import inspect
from functools import cache
from typing import Any

import click
import pytest
from google.longrunning import operations_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor

from tests.docs.pages import ROOT, names, table
from understudy.cli import main as command_line
from understudy.v1 import (
    face_service_pb2,
    faceset_service_pb2,
    frame_service_pb2,
    merge_service_pb2,
    operation_pb2,
    project_service_pb2,
    rights_service_pb2,
    training_service_pb2,
    transfer_service_pb2,
    xseg_service_pb2,
)

_FILES = (
    project_service_pb2,
    frame_service_pb2,
    face_service_pb2,
    faceset_service_pb2,
    rights_service_pb2,
    xseg_service_pb2,
    training_service_pb2,
    merge_service_pb2,
    transfer_service_pb2,
    operation_pb2,
)
_RPC_MODULES = (
    "services.frames.rpc",
    "services.faces.rpc",
    "services.facesets.rpc",
    "services.trainer.rpc",
    "services.merge.rpc",
    "services.kit.operations.rpc",
    "services.kit.transfer.rpc",
)
NOT_SERVED = "not in this release"
ROWS = [row for row in table("map.md", "Feature") if names(row[1])]


@cache
def _api() -> dict[str, set[str]]:
    """Methods by service."""
    services: list[ServiceDescriptor] = [
        service for file in _FILES for service in file.DESCRIPTOR.services_by_name.values()
    ]
    operations = descriptor_pool.Default().FindServiceByName("google.longrunning.Operations")
    assert operations.file.name == operations_pb2.DESCRIPTOR.name
    return {service.name: {method.name for method in service.methods} for service in [*services, operations]}


@cache
def _served() -> set[str]:
    """`Service.Method` of everything that a servicer of this release overrides."""
    found = set()
    for module_name in _RPC_MODULES:
        module = importlib.import_module(module_name)
        for _, kind in inspect.getmembers(module, inspect.isclass):
            for base in kind.__mro__[1:]:
                service = base.__name__.removesuffix("Servicer")
                if base.__name__.endswith("Servicer") and service in _api() and kind.__module__ == module_name:
                    found |= {f"{service}.{method}" for method in _api()[service] & set(vars(kind))}
    return found


def _resolve(name: str) -> Any:
    """The thing that a dotted name means: a module, then attributes."""
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[split:]:
            thing = getattr(thing, attribute)
        return thing
    raise AttributeError(name)


def test_every_rpc_has_its_row() -> None:
    written = [names(row[1])[0] for row in ROWS]
    expected = {f"{service}.{method}" for service, methods in _api().items() for method in methods}
    assert sorted(written) == sorted(expected)


def test_served_is_served_and_the_rest_is_not() -> None:
    claimed = {names(row[1])[0] for row in ROWS if row[2] != NOT_SERVED}
    assert claimed == _served()


@pytest.mark.parametrize("row", ROWS, ids=[names(row[1])[0] for row in ROWS])
def test_names_exist(row: list[str]) -> None:
    _, _, app, craft, command, test = row
    if app == NOT_SERVED:
        assert [craft, command, test] == ["", "", ""]
        return
    for name in [*names(app), *names(craft)]:
        _resolve(name)
    assert names(app), "a served RPC is done by something"
    assert all(name.startswith("services.") for name in names(app))
    assert all(name.startswith("ml_common.") for name in names(craft))
    for name in names(command):
        _command(name)
    assert names(test), "a served RPC has a test"
    for path in names(test):
        assert (ROOT / path).is_file(), path


def _command(words: str) -> None:
    """`clip add` is a command of `understudy`."""
    found: click.Command | None = command_line
    for word in words.split():
        assert isinstance(found, click.Group), words
        found = found.get_command(click.Context(found), word)
        assert found is not None, words
