"""What must not change in a published API, read out of descriptors: names, numbers, types, methods.

`python tests/proto/api_shape.py` writes `v1.descriptor.binpb` anew; see test_proto_compatibility.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf import descriptor_pb2

COMMITTED = Path(__file__).with_name("v1.descriptor.binpb")
UPDATE = "PATH=.venv/bin:$PATH .venv/bin/python tests/proto/api_shape.py"
Shape = dict[str, str]


def shape(files: Iterable[descriptor_pb2.FileDescriptorProto]) -> Shape:
    """Everything a client or stored data relies on: a path each, and what it must stay."""
    return dict(entry for file in files for entry in _file(file))


def broken(before: Shape, now: Shape) -> list[str]:
    """What of ``before`` is gone or different. Additions break nobody."""
    return [
        f"{path} was {was}" + (f", is {now[path]}" if path in now else ", is gone")
        for path, was in sorted(before.items())
        if now.get(path) != was
    ]


def stripped(files: Iterable[descriptor_pb2.FileDescriptorProto]) -> bytes:
    """The files without comments, so that wording is free."""
    result = descriptor_pb2.FileDescriptorSet()
    for file in sorted(files, key=lambda file: file.name):
        copy = result.file.add()
        copy.CopyFrom(file)
        copy.ClearField("source_code_info")
    return result.SerializeToString(deterministic=True)


def _file(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, str]]:
    for message in file.message_type:
        yield from _message(f"{file.package}.{message.name}", message)
    for enum in file.enum_type:
        yield from _enum(f"{file.package}.{enum.name}", enum)
    for service in file.service:
        for method in service.method:
            kinds = ("stream " * method.client_streaming, "stream " * method.server_streaming)
            signature = f"{kinds[0]}{method.input_type} -> {kinds[1]}{method.output_type}"
            yield f"rpc {file.package}.{service.name}/{method.name}", signature


def _message(path: str, message: descriptor_pb2.DescriptorProto) -> Iterator[tuple[str, str]]:
    yield f"message {path}", "a message"
    for field in message.field:
        kind = descriptor_pb2.FieldDescriptorProto.Type.Name(field.type)
        label = descriptor_pb2.FieldDescriptorProto.Label.Name(field.label)
        in_oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
        facts = [str(field.number), kind, field.type_name, label, in_oneof]
        yield f"field {path}.{field.name}", " ".join(fact for fact in facts if fact)
    for nested in message.nested_type:
        yield from _message(f"{path}.{nested.name}", nested)
    for enum in message.enum_type:
        yield from _enum(f"{path}.{enum.name}", enum)


def _enum(path: str, enum: descriptor_pb2.EnumDescriptorProto) -> Iterator[tuple[str, str]]:
    for value in enum.value:
        yield f"value {path}.{value.name}", str(value.number)


if __name__ == "__main__":
    repository = Path(__file__).resolve().parents[2]
    sys.path.insert(0, str(repository / "proto"))
    from generate import generate  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), Path(folder) / "v1.binpb")
        every = descriptor_pb2.FileDescriptorSet.FromString((Path(folder) / "v1.binpb").read_bytes())
    COMMITTED.write_bytes(stripped(file for file in every.file if file.package == "understudy.v1"))
