"""Generates the Python stubs of proto/understudy/v1 into a folder (the repository root by default).

The include root equals the package root, so generated files import ``understudy.v1`` and need no rewriting. A test runs this into a
temporary folder and compares; edit a .proto, run ``make proto``, commit both.
"""

from __future__ import annotations

import importlib.resources
import shutil
import sys
import tempfile
from pathlib import Path

from google.longrunning import operations_proto_pb2
from grpc_tools import protoc

PROTO_ROOT = Path(__file__).resolve().parent


def generate(out_dir: Path, descriptor_path: Path | None = None) -> None:
    """Writes ``understudy/v1/*_pb2.py``, ``*_pb2.pyi`` and, for services, ``*_pb2_grpc.py(i)`` below ``out_dir``.

    ``descriptor_path`` receives the FileDescriptorSet with comments, which the lint and compatibility checks read.
    """
    sources = sorted(PROTO_ROOT.glob("understudy/v1/*.proto"))
    google_dir = Path(operations_proto_pb2.__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as renamed_dir:
        # The wheel ships this file as operations_proto.proto although its descriptor, as everywhere else, says operations.proto.
        renamed = Path(renamed_dir) / "google" / "longrunning" / "operations.proto"
        renamed.parent.mkdir(parents=True)
        shutil.copyfile(google_dir / "google" / "longrunning" / "operations_proto.proto", renamed)
        includes = [PROTO_ROOT, renamed_dir, importlib.resources.files("grpc_tools") / "_proto", google_dir]
        kinds = ["python", "mypy", "grpc_python", "mypy_grpc"]
        arguments = ["protoc", *(f"-I{path}" for path in includes), *(f"--{kind}_out={out_dir}" for kind in kinds)]
        arguments += ["--mypy_opt=quiet", "--mypy_grpc_opt=quiet,generate_concrete_servicer_stubs"]
        if descriptor_path is not None:
            arguments += [f"--descriptor_set_out={descriptor_path}", "--include_imports", "--include_source_info"]
        if protoc.main([*arguments, *(str(source) for source in sources)]) != 0:
            raise SystemExit("protoc failed; its message is above")
    for path in (out_dir / "understudy" / "v1").glob("*_pb2_grpc.py*"):
        if "Stub" not in path.read_text():
            path.unlink()  # a .proto without services makes an empty one


if __name__ == "__main__":
    generate(
        Path(sys.argv[1]) if len(sys.argv) > 1 else PROTO_ROOT.parent, Path(sys.argv[2]) if len(sys.argv) > 2 else None
    )
