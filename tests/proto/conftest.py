"""The API as protoc sees it now, generated once for all tests of this folder."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stubs as `make proto` would write them, and the descriptor with comments as `v1.binpb`."""
    spec = importlib.util.spec_from_file_location("proto_generate", REPOSITORY / "proto" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("proto")
    with pytest.MonkeyPatch.context() as patch:
        # protoc looks for its plugins there.
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        module.generate(folder, folder / "v1.binpb")
    return folder


@pytest.fixture(scope="session")
def files(generated: Path) -> list[descriptor_pb2.FileDescriptorProto]:
    """Our own files, with comments."""
    everything = descriptor_pb2.FileDescriptorSet.FromString((generated / "v1.binpb").read_bytes())
    return [file for file in everything.file if file.package == "understudy.v1"]
