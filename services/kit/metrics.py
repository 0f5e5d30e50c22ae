"""Prometheus metrics of every server: calls by method and code, streams included; chunks and units of operations.

Never put a project, clip or user into a label: those belong into logs.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """One registry a process; made once by the composition root and passed in the context."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.address = ""  # host:port that serves them; empty until something does
        self.calls_started = Counter(
            "understudy_rpc_started_total", "Calls begun.", ["service", "method"], registry=self.registry
        )
        self.calls_handled = Counter(
            "understudy_rpc_handled_total",
            "Calls ended, by gRPC code.",
            ["service", "method", "code"],
            registry=self.registry,
        )
        self.call_seconds = Histogram(
            "understudy_rpc_seconds",
            "Time from the first byte of a call to its end; for streams, the life of the stream.",
            ["service", "method"],
            buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60),
            registry=self.registry,
        )
        self.stream_messages = Counter(
            "understudy_rpc_stream_messages_total",
            "Messages sent on streams.",
            ["service", "method"],
            registry=self.registry,
        )
        self.operations = Gauge(
            "understudy_operations_driven",
            "Operations and runs this process drives now.",
            ["kind"],
            registry=self.registry,
        )
        self.chunks = Counter(
            "understudy_chunks_total",
            "Chunks ended, by stage and outcome.",
            ["stage", "outcome"],
            registry=self.registry,
        )
        self.units = Counter(
            "understudy_units_total", "Frames or faces done, by stage.", ["stage"], registry=self.registry
        )
