"""Who has read one service has read all: the same names in each, thin methods, light imports, versions that agree."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys

import pytest

from services.kit.operations.stage import Stage, load_stage
from tests.architecture.imports import REPOSITORY, Module, modules

SERVICES = ["frames", "faces", "facesets", "xseg", "trainer", "merge"]
MOST_LINES = 20  # of an RPC method; "about 15", and a long call is wrapped


def loaded_after(code: str) -> set[str]:
    """Top-level packages that a fresh process has loaded after ``code``."""
    command = [
        sys.executable,
        "-c",
        f"{code}\nimport json, sys\nprint(json.dumps(sorted({{n.partition('.')[0] for n in sys.modules}})))",
    ]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize("service", SERVICES)
def test_a_server_starts_without_torch_and_ray(service: str) -> None:
    """A server holds no device, and is there in a second."""
    folder = REPOSITORY / "services" / service
    imports = "\n".join(
        f"import services.{service}.{path.stem}"
        for path in sorted(folder.glob("*.py"))
        if path.stem in ("rpc", "stages")
    )
    loaded = loaded_after(f"import services.{service}, services.kit.main\n{imports}")
    assert not loaded & {"torch", "ray"}


def test_the_client_and_its_commands_start_without_torch_and_ray() -> None:
    """They are installed where nobody wants gigabytes: in an artist's host application, on a farm's submitting machine."""
    modules_of_client = sorted(
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        for path in (REPOSITORY / "understudy").rglob("*.py")
        if path.name != "__main__.py" and "demo" not in path.parts
    )
    loaded = loaded_after("\n".join(f"import {name}" for name in modules_of_client))
    assert not loaded & {"torch", "ray"}
    assert not loaded_after("import understudy.client, understudy.swap, understudy.transfer") & {
        "services",
        "ml_common",
        "cv2",
    }


@pytest.mark.parametrize("service", SERVICES)
def test_services_have_the_same_names(service: str) -> None:
    folder = REPOSITORY / "services" / service
    assert (folder / "__main__.py").is_file()
    package = importlib.import_module(f"services.{service}")
    assert callable(package.register)
    assert package.__doc__
    main = (folder / "__main__.py").read_text()
    assert len(main.splitlines()) <= 12, "hosting one service alone is six lines"


def rpc_methods() -> list[tuple[Module, ast.AsyncFunctionDef | ast.FunctionDef]]:
    return [
        (module, node)
        for module in modules()
        if module.path.name == "rpc.py"
        for servicer in module.tree.body
        if isinstance(servicer, ast.ClassDef)
        for node in servicer.body
        if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef) and node.name[0].isupper()
    ]


def test_rpc_methods_validate_convert_call() -> None:
    """Streams are loops by nature and may be longer."""
    long = []
    for module, method in rpc_methods():
        streams = any(isinstance(node, ast.Yield) for node in ast.walk(method))
        body = method.body[1:] if ast.get_docstring(method) else method.body
        lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]
        if lines > MOST_LINES * (2 if streams else 1):
            long.append(f"{module.place}:{method.lineno} {method.name} has {lines} lines")
    assert len(rpc_methods()) > 20
    assert not long, "move the work into app.py:\n  " + "\n  ".join(long)


def test_rpc_methods_are_coroutines() -> None:
    """A plain function would hold up every other call of the server."""
    plain = [f"{module.place} {method.name}" for module, method in rpc_methods() if isinstance(method, ast.FunctionDef)]
    assert not plain


def stages() -> list[tuple[str, str]]:
    """Path and place of each Stage class."""
    return [
        (f"{module.name}:{node.name}", module.place)
        for module in modules()
        for node in module.tree.body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Stage" for base in node.bases)
    ]


def versions_in_plans() -> dict[str, str]:
    """What the app modules say of stages whose modules they do not import."""
    found: dict[str, str] = {}
    for module in modules():
        if module.path.name == "app.py":
            app = importlib.import_module(module.name)
            if hasattr(app, "STAGE_VERSION"):
                found[app.STAGE] = app.STAGE_VERSION
            found |= getattr(app, "STAGE_VERSIONS", {})
    return found


def test_plans_name_stages_and_their_versions() -> None:
    versions = versions_in_plans()
    assert len(versions) >= 3
    for path, version in versions.items():
        stage = load_stage(path)
        assert stage.version == version, f"{path} is version {stage.version}, its app.py plans for {version}"


def test_every_stage_is_planned_by_an_app() -> None:
    planned = {path for path, _ in stages() if path in versions_in_plans()}
    forgotten = [place for path, place in stages() if path not in planned and not path.startswith("services.kit.")]
    assert not forgotten, f"no STAGE_VERSION in an app.py covers stages of {forgotten}"


def test_stages_have_versions_and_load_without_torch() -> None:
    paths = [path for path, _ in stages() if not path.startswith("services.kit.")]
    assert paths
    for path in paths:
        stage = load_stage(path)
        assert isinstance(stage, Stage)
        assert stage.version
    code = "from services.kit.operations.stage import load_stage\n"
    assert not loaded_after(code + "\n".join(f"load_stage({path!r})" for path in paths)) & {"torch", "ray"}


def test_every_service_is_hosted_by_the_common_main() -> None:
    """`python -m services` hosts what the folders hold."""
    text = (REPOSITORY / "services" / "__main__.py").read_text()
    for folder in sorted((REPOSITORY / "services").iterdir()):
        if (folder / "rpc.py").is_file():
            assert folder.name in text, f"services/__main__.py does not host {folder.name}"
