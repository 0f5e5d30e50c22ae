"""The API is commented throughout and its enums begin with nothing said; reasons used in code are names of the API."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from google.protobuf import descriptor_pb2

from tests.proto.conftest import REPOSITORY
from understudy.v1 import errors_pb2

File = descriptor_pb2.FileDescriptorProto


def named_paths(file: File) -> Iterator[tuple[tuple[int, ...], str]]:
    """Path in the descriptor and name of everything that wants a comment."""

    def of_enum(
        enum: descriptor_pb2.EnumDescriptorProto, path: tuple[int, ...], name: str
    ) -> Iterator[tuple[tuple[int, ...], str]]:
        yield path, f"{name}{enum.name}"
        for index, value in enumerate(enum.value):
            yield (*path, 2, index), f"{name}{enum.name}.{value.name}"

    def of_message(
        message: descriptor_pb2.DescriptorProto, path: tuple[int, ...], name: str
    ) -> Iterator[tuple[tuple[int, ...], str]]:
        if message.options.map_entry:
            return
        yield path, f"{name}{message.name}"
        inner = f"{name}{message.name}."
        for index, field in enumerate(message.field):
            yield (*path, 2, index), f"{inner}{field.name}"
        for index, oneof in enumerate(message.oneof_decl):
            if not oneof.name.startswith("_"):  # of `optional`
                yield (*path, 8, index), f"{inner}{oneof.name}"
        for index, nested in enumerate(message.nested_type):
            yield from of_message(nested, (*path, 3, index), inner)
        for index, enum in enumerate(message.enum_type):
            yield from of_enum(enum, (*path, 4, index), inner)

    for index, message in enumerate(file.message_type):
        yield from of_message(message, (4, index), "")
    for index, enum in enumerate(file.enum_type):
        yield from of_enum(enum, (5, index), "")
    for index, service in enumerate(file.service):
        yield (6, index), service.name
        for number, method in enumerate(service.method):
            yield (6, index, 2, number), f"{service.name}.{method.name}"


def test_everything_is_commented(files: list[File]) -> None:
    silent = []
    for file in files:
        comments = {tuple(place.path): place.leading_comments.strip() for place in file.source_code_info.location}
        silent += [f"{file.name}: {name}" for path, name in named_paths(file) if not comments.get(path)]
        assert any(
            any(detached.strip() for detached in place.leading_detached_comments) or place.leading_comments.strip()
            for place in file.source_code_info.location
            if tuple(place.path) in ((12,), (2,))
        ), f"{file.name} does not say what it is for"
    assert not silent, "these need a comment:\n  " + "\n  ".join(silent)


def every_enum(files: list[File]) -> Iterator[descriptor_pb2.EnumDescriptorProto]:
    def of_message(message: descriptor_pb2.DescriptorProto) -> Iterator[descriptor_pb2.EnumDescriptorProto]:
        yield from message.enum_type
        for nested in message.nested_type:
            yield from of_message(nested)

    for file in files:
        yield from file.enum_type
        for message in file.message_type:
            yield from of_message(message)


def test_enums_begin_with_unspecified(files: list[File]) -> None:
    for enum in every_enum(files):
        first = enum.value[0]
        assert first.number == 0, enum.name
        assert first.name.endswith("_UNSPECIFIED"), enum.name
        prefix = first.name.removesuffix("UNSPECIFIED")
        assert all(value.name.startswith(prefix) for value in enum.value), f"values of {enum.name} begin with {prefix}"


def test_lists_are_paged(files: list[File]) -> None:
    """AIP-158, from the first version: a list that grows pages later breaks its callers. Presets and recipes are a handful."""
    messages = {message.name: message for file in files for message in file.message_type}
    for file in files:
        for service in file.service:
            for method in service.method:
                if method.name.startswith("List") and method.name not in ("ListPresets", "ListRecipes"):
                    request = {field.name for field in messages[method.input_type.rpartition(".")[2]].field}
                    response = {field.name for field in messages[method.output_type.rpartition(".")[2]].field}
                    assert {"page_size", "page_token"} <= request, method.name
                    assert "next_page_token" in response, method.name


def reasons_in_code() -> Iterator[tuple[str, str]]:
    """Every `reason="..."` and `default_reason = "..."` of the services, with its place; reasons in tables too."""
    for path in sorted((REPOSITORY / "services").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            values: list[ast.expr] = []
            if isinstance(node, ast.keyword) and node.arg == "reason":
                values = [node.value]
            elif isinstance(node, ast.Assign):
                names = {target.id for target in node.targets if isinstance(target, ast.Name)}
                if names & {"default_reason", "reason"}:
                    values = [node.value]
                elif names & {"_REASONS"} and isinstance(node.value, ast.Dict):
                    values = list(node.value.values)
            for value in values:
                for part in ast.walk(value):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value.isupper():
                        yield part.value, f"{path.relative_to(REPOSITORY)}:{part.lineno}"


def test_reasons_in_code_are_names_of_the_api() -> None:
    known = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.keys()}  # noqa: SIM118
    found = list(reasons_in_code())
    assert len(found) > 30, "the search finds nothing any more"
    unknown = [f"{place}: {reason}" for reason, place in found if reason not in known]
    assert not unknown, "add these to proto/understudy/v1/errors.proto, or use a name it has:\n  " + "\n  ".join(
        unknown
    )


@pytest.mark.parametrize("name", [name for name in errors_pb2.ErrorReason.keys()])  # noqa: SIM118, C416
def test_reasons_fit_into_error_info(name: str) -> None:
    """google.rpc.ErrorInfo: UPPER_SNAKE of at most 63 characters."""
    assert name.removeprefix("ERROR_REASON_").replace("_", "").isalnum()
    assert name.isupper()
    assert len(name) <= 63
