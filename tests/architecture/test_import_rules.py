"""Dependencies point down. The rules of docs' architecture page, one test each, read from the imports of every module."""

from __future__ import annotations

import ast

import pytest

from tests.architecture.imports import Import, Module, modules, within

SERVICES = ("frames", "faces", "facesets", "xseg", "trainer", "merge", "console")
RAY_FILES = {"services/kit/execution/ray_executor.py", "services/trainer/ray_backend.py"}
# Where messages are met, beside rpc.py and convert.py of each service and the client.
MESSAGE_FILES = {
    "services/kit/clip_messages.py",  # clips as plans of several services need them
    "services/kit/operations/convert.py",
    "services/kit/operations/rpc.py",
    "services/kit/resources.py",  # records as messages
    "services/kit/server.py",  # health and reflection
    "services/kit/status.py",  # errors as google.rpc.Status
    "services/kit/transfer/rpc.py",
}
MESSAGES = ("understudy.v1", "google.protobuf", "google.rpc", "google.longrunning", "grpc_health", "grpc_reflection")


def broken(wrong: object, *, typing_too: bool = False) -> list[str]:
    """Where ``wrong(module, import)`` holds."""
    assert callable(wrong)
    return [
        f"{module.place}:{found.line} imports {found.target}"
        for module in modules()
        for found in module.imports()
        if (typing_too or not found.typing_only) and wrong(module, found)
    ]


def test_the_search_finds_imports() -> None:
    assert len(modules()) > 100
    assert broken(lambda module, found: within(found.target, "numpy"))
    assert broken(lambda module, found: within(found.target, "torch") and not found.at_top)
    relative = [found for module in modules() for found in module.imports() if found.target.startswith(".")]
    assert not relative, "relative imports are resolved"


def test_ml_common_knows_arrays_alone() -> None:
    """No service, no client, no gRPC, no Ray, no store."""
    foreign = ("services", "understudy", "tests", "grpc", "ray", "google", "minio", "pydantic", "prometheus_client")
    assert not broken(
        lambda module, found: within(module.name, "ml_common") and within(found.target, *foreign), typing_too=True
    )


def names_used(module: Module) -> set[str]:
    """Dotted names in a module: `os.environ`, `datetime.now`."""
    return {ast.unparse(node) for node in ast.walk(module.tree) if isinstance(node, ast.Attribute)}


def test_ml_common_reads_neither_environment_nor_clock() -> None:
    forbidden = {"os.environ", "os.getenv", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
    for module in modules():
        if within(module.name, "ml_common"):
            used = names_used(module) & forbidden
            imported = {
                found.target for found in module.imports() if within(found.target, "time", "os.environ", "os.getenv")
            }
            assert not used | imported, f"{module.place} uses {used | imported}"


def test_services_never_import_each_other() -> None:
    def wrong(module: Module, found: Import) -> bool:
        parts = found.target.split(".")
        other = parts[1] if parts[0] == "services" and len(parts) > 1 else ""
        return module.service in SERVICES and other in SERVICES and other != module.service

    assert not broken(wrong, typing_too=True)


def test_the_kit_imports_no_service() -> None:
    assert not broken(
        lambda module, found: (
            module.service == "kit" and within(found.target, *(f"services.{name}" for name in SERVICES))
        ),
        typing_too=True,
    )


def test_services_use_the_stubs_of_the_client_and_nothing_else_of_it() -> None:
    """A service that wants another calls it through the client; so far none does."""
    assert not broken(
        lambda module, found: (
            within(module.name, "services")
            and within(found.target, "understudy")
            and not within(found.target, "understudy.v1")
        )
    )


def test_the_client_imports_no_service() -> None:
    """But to start one beside itself, in its own process: `understudy up` and the demo."""
    starters = {"understudy/cli/commands/up.py", "understudy/cli/commands/weights.py"}
    places = {
        place.partition(":")[0]
        for place in broken(
            lambda module, found: within(module.name, "understudy") and within(found.target, "services")
        )
    }
    assert places <= starters, places - starters


def test_ray_is_imported_in_two_files() -> None:
    places = {
        place.partition(":")[0] for place in broken(lambda module, found: within(found.target, "ray"), typing_too=True)
    }
    assert places == RAY_FILES


def test_files_that_import_ray_are_imported_on_first_use() -> None:
    """Else every server would load Ray when it starts."""
    targets = [place.removesuffix(".py").replace("/", ".") for place in RAY_FILES]
    assert not broken(
        lambda module, found: module.place not in RAY_FILES and found.at_top and within(found.target, *targets)
    )


def test_torch_is_imported_by_ml_common_and_inside_of_worker_functions() -> None:
    assert not broken(
        lambda module, found: (
            not within(module.name, "ml_common") and found.at_top and within(found.target, "torch", "torchvision")
        )
    )


def test_messages_are_met_at_the_edge_alone() -> None:
    unserved = (
        "services/xseg/__init__.py"  # registers the generated base class: no method is served, so there is no rpc.py
    )

    def wrong(module: Module, found: Import) -> bool:
        edge = module.path.name in ("rpc.py", "convert.py") and module.service in SERVICES
        return (
            within(module.name, "services")
            and not edge
            and module.place not in {*MESSAGE_FILES, unserved}
            and within(found.target, *MESSAGES)
        )

    assert not broken(wrong, typing_too=True)


def test_the_list_of_message_files_is_true() -> None:
    used = {
        place.partition(":")[0]
        for place in broken(lambda module, found: module.service == "kit" and within(found.target, *MESSAGES))
    }
    assert used == MESSAGE_FILES


def test_grpc_is_met_at_the_edge_alone() -> None:
    allowed = {"services/kit/calls.py", "services/kit/server.py", "services/kit/status.py"}

    def wrong(module: Module, found: Import) -> bool:
        edge = module.path.name == "rpc.py" or module.place in allowed
        return within(module.name, "services") and not edge and within(found.target, "grpc")

    assert not broken(wrong, typing_too=True)


def test_nobody_imports_from_tests() -> None:
    assert not broken(lambda module, found: within(found.target, "tests"), typing_too=True)


def test_nothing_is_unpickled() -> None:
    """Rule 11: DeepFaceLab's files have a reader of their own, and ours are JSON and safetensors."""
    assert not broken(lambda module, found: within(found.target, "pickle", "dill", "cloudpickle", "shelve", "marshal"))
    loads = [
        f"{module.place}:{node.lineno}"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("torch.load", "np.load", "numpy.load")
        and ast.unparse(node).find("allow_pickle=False") < 0
        and ast.unparse(node.func) == "torch.load"
    ]
    assert not loads
    pickled = [
        f"{module.place}:{node.lineno}"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.keyword)
        and node.arg == "allow_pickle"
        and not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]
    assert not pickled


@pytest.mark.parametrize("word", ["util", "utils", "helper", "helpers", "manager", "common", "misc"])
def test_no_module_is_a_drawer(word: str) -> None:
    for module in modules():
        parts = module.path.stem.split("_")
        assert word not in parts, f"{module.place}: name it after what it does"


def test_every_module_says_what_it_is_for() -> None:
    silent = [module.place for module in modules() if not ast.get_docstring(module.tree) and module.tree.body]
    assert not silent, "these need a docstring:\n  " + "\n  ".join(silent)


def test_every_package_says_what_it_is_for() -> None:
    """A package's page in the code; an empty one tells a newcomer nothing."""
    silent = [
        module.place for module in modules() if module.path.name == "__init__.py" and not ast.get_docstring(module.tree)
    ]
    assert not silent, "these need a docstring:\n  " + "\n  ".join(silent)
