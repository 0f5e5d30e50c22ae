"""A Ray cluster as on Kubernetes, small: a head of our own on loopback, and one Ray job an operation, end to end.

The head is stopped by its own process alone: other Rays may run on this machine. Servers are processes of their own, because a process
knows only one Ray token, and this one may have used another Ray before.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.kit.claims import is_alive
from services.kit.operations.plan import Plan
from services.kit.records import Records
from services.kit.storage import ObjectStore, open_store
from tests.support.contexts import eventually
from tests.support.probe_service import REPOSITORY, Server, ended, server_process
from tests.support.stages import runs_of, scripted_plan
from understudy.errors import from_status
from understudy.v1 import common_pb2, operation_pb2

pytestmark = pytest.mark.slow
TOKEN = secrets.token_hex(32)


@dataclass(frozen=True)
class Cluster:
    """A running head."""

    address: str
    job_address: str
    folder: Path

    @property
    def server_flags(self) -> list[str]:
        """What a server needs to use it."""
        values = {"kind": "ray-cluster", "address": self.address, "job_address": self.job_address, "attempts": 2}
        return [flag for name, value in values.items() for flag in ("--set", f"execution.{name}={value}")]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def children_of(pid: int) -> list[int]:
    """Processes below one, at any depth."""
    lines = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split("\n")
    parents = {int(child): int(parent) for child, parent in (line.split() for line in lines if line.strip())}
    found: list[int] = []
    for child in parents:
        above = child
        while above in parents and above != pid:
            above = parents[above]
        if above == pid and child != pid:
            found.append(child)
    return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """`ray start --head` in the foreground, with the settings that a cluster's pods carry."""
    folder = tmp_path_factory.mktemp("cluster")
    # Sockets lie below it, and their paths must be short.
    ray_folder = Path(tempfile.mkdtemp(prefix="uray", dir="/tmp"))
    port, jobs_port, client_port, agent_port, agent_grpc_port = free_ports(5)
    command = [
        str(Path(sys.executable).with_name("ray")),
        *("start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2"),
        *("--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={ray_folder}"),
        *("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={jobs_port}"),
        *(f"--ray-client-server-port={client_port}", f"--dashboard-agent-listen-port={agent_port}"),
        *(f"--dashboard-agent-grpc-port={agent_grpc_port}", f"--object-store-memory={128 * 2**20}"),
    ]
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_AUTH_MODE", "token")
    patch.setenv("RAY_AUTH_TOKEN", TOKEN)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "UNDERSTUDY_STORE__ROOT": str(folder / "objects"),
        "UNDERSTUDY_EXECUTION__KIND": "ray-cluster",
        "UNDERSTUDY_EXECUTION__ADDRESS": f"127.0.0.1:{port}",
        "UNDERSTUDY_EXECUTION__ATTEMPTS": "2",
    }
    log = folder / "head.log"
    with log.open("wb") as output:
        head = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=output, stderr=output)
    try:

        def ready() -> bool:
            assert head.poll() is None, log.read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", jobs_port)) == 0

        eventually(ready, "the head takes jobs", within_s=120)
        yield Cluster(f"127.0.0.1:{port}", f"http://127.0.0.1:{jobs_port}", folder)
    finally:
        below = children_of(head.pid)
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(timeout=60)
        except subprocess.TimeoutExpired:
            head.kill()
        for pid in below:  # its own children: whatever the head did not end
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: not any(is_alive(pid) for pid in below), "the head's processes end")
        shutil.rmtree(ray_folder, ignore_errors=True)
        patch.undo()


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Iterator[Server]:
    """A server that has its operations done on the cluster."""
    with server_process(cluster.folder, *cluster.server_flags) as running:
        yield running


@pytest.fixture(scope="module")
def store(cluster: Cluster) -> ObjectStore:
    """The store that server and cluster share."""
    return open_store("folder", root=cluster.folder / "objects")


def jobs(cluster: Cluster, plan: Plan) -> list[str]:
    """Ids of the Ray jobs of a plan's operation, in the order of their submission."""
    request = urllib.request.Request(f"{cluster.job_address}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=30) as response:
        found = [job for job in json.load(response) if plan.action_key[:24] in (job["submission_id"] or "")]
    return [job["submission_id"] for job in sorted(found, key=lambda job: job["start_time"])]


def metadata_of(operation: Any) -> operation_pb2.OperationMetadata:
    metadata = operation_pb2.OperationMetadata()
    operation.metadata.Unpack(metadata)
    return metadata


def test_an_operation_is_one_ray_job(server: Server, cluster: Cluster, store: ObjectStore) -> None:
    plan = scripted_plan({}, {"do": "die_once"}, {}, seed=1)
    finished = ended(server, server.submit(plan).name)
    response = common_pb2.Digest()
    assert finished.response.Unpack(response), from_status(finished.error)
    assert response == common_pb2.Digest(sha256="1:0,1:1,1:2", size_bytes=12)
    assert metadata_of(finished).attempt == 1
    assert runs_of(store, plan) == [1, 2, 1]
    assert jobs(cluster, plan) == [f"projects-p-operations-test-{plan.action_key[:24]}-1-1"]


def test_a_job_that_dies_is_followed_by_one_other(server: Server, cluster: Cluster, store: ObjectStore) -> None:
    """Nobody's work dies with Ray: the service submits it again, and it goes on from the manifests. Meanwhile a second server looks after
    the same operation, as every service of a deployment does; they must not bury the cluster in jobs."""
    plan = scripted_plan({}, {"do": "gate", "gate": "gates/job"}, {}, seed=2)
    with server_process(
        cluster.folder / "other", *cluster.server_flags, "--set", f"store.root={cluster.folder}/objects"
    ):
        name = server.submit(plan).name
        eventually(lambda: runs_of(store, plan)[1], "the second chunk begins", within_s=120)
        owner = Records(store).get(name).body["lease"]["owner"]
        os.kill(int(owner.split(":")[1]), signal.SIGKILL)  # the job's driver: a process of our own head
        store.put("gates/job", b"")
        finished = ended(server, name)
    assert finished.HasField("response"), from_status(finished.error)
    assert metadata_of(finished).attempt == 2
    assert runs_of(store, plan)[0] == 1, "what was done is not done again"
    assert [job.removeprefix(name.replace("/", "-")) for job in jobs(cluster, plan)] == ["-1-1", "-2-1"]


def test_a_cluster_that_cannot_be_reached_does_not_keep_a_server_from_starting(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    flags = ["--set", "execution.kind=ray-cluster", "--set", f"execution.job_address=http://127.0.0.1:{port}"]
    with server_process(tmp_path, *flags) as running:
        begun = running.submit(scripted_plan({}, seed=5))
        log = tmp_path / "server.log"
        eventually(lambda: "does not answer us" in log.read_text(), "it is tried")
        assert not begun.done, "it waits for the cluster"
        assert "Traceback" not in log.read_text()
