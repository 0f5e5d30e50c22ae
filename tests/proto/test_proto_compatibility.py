"""Nothing that a client or stored data relies on is removed, renumbered or retyped.

Sidecars and records in the store are JSON by field name, so a renamed field breaks data and not only clients.
"""

from __future__ import annotations

import copy

import pytest
from google.protobuf import descriptor_pb2

from tests.proto.api_shape import COMMITTED, UPDATE, broken, shape, stripped

Files = list[descriptor_pb2.FileDescriptorProto]


def committed_files() -> Files:
    return list(descriptor_pb2.FileDescriptorSet.FromString(COMMITTED.read_bytes()).file)


def test_nothing_is_broken(files: Files) -> None:
    breaks = broken(shape(committed_files()), shape(files))
    assert not breaks, (
        "these changes break clients or stored data:\n  "
        + "\n  ".join(breaks)
        + "\nMark removed fields `reserved` and add new ones instead. If nothing was published with it yet, accept the change with\n  "
        + UPDATE
    )


def test_the_committed_descriptor_is_up_to_date(files: Files) -> None:
    """Else what was added since could be broken unseen."""
    assert stripped(files) == COMMITTED.read_bytes(), (
        f"the API has grown: bring {COMMITTED.name} up to date with\n  {UPDATE}"
    )


def changed(change: str) -> Files:
    """The committed files after one change."""
    files = copy.deepcopy(committed_files())
    file = next(file for file in files if file.name.endswith("common.proto"))
    digest = next(message for message in file.message_type if message.name == "Digest")
    if change == "field removed":
        del digest.field[0]
    elif change == "field renamed":
        digest.field[0].name = "sha"
    elif change == "field renumbered":
        digest.field[0].number = 9
    elif change == "field retyped":
        digest.field[0].type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
    elif change == "field repeated":
        digest.field[0].label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    elif change == "message removed":
        del file.message_type[0]
    elif change == "value renumbered":
        file.enum_type[0].value[1].number = 99
    else:
        service = next(file for file in files if file.name.endswith("transfer_service.proto")).service[0]
        if change == "method removed":
            del service.method[0]
        else:
            service.method[0].server_streaming = True
    return files


@pytest.mark.parametrize(
    "change",
    [
        "field removed",
        "field renamed",
        "field renumbered",
        "field retyped",
        "field repeated",
        "message removed",
        "value renumbered",
        "method removed",
        "method streams",
    ],
)
def test_every_kind_of_break_is_seen(change: str) -> None:
    assert broken(shape(committed_files()), shape(changed(change)))


def test_additions_break_nothing() -> None:
    files = copy.deepcopy(committed_files())
    files[0].message_type.add(name="New")
    files[0].message_type[0].field.add(name="new", number=500, type=descriptor_pb2.FieldDescriptorProto.TYPE_BOOL)
    assert not broken(shape(committed_files()), shape(files))
