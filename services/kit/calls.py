"""What happens around every call, once: request id, token, deadline, metrics, log line, errors. For unary calls and streams alike.

A stream's error is raised while it is iterated, long after the handler returned, so streams are wrapped as generators; there is a test
whose stream fails on its second message. The identity of a caller is bound here, inside the call, never in ``intercept_service``.
"""

from __future__ import annotations

import contextvars
import hmac
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from services.kit.errors import Cancelled, NotImplementedYet, OutOfDeadline, Unauthenticated, UnderstudyError
from services.kit.logs import bind
from services.kit.metrics import Metrics
from services.kit.status import STATUS_DETAILS_KEY, grpc_code, to_status

_LOG = logging.getLogger(__name__)
REQUEST_ID_HEADER = "x-request-id"
_OPEN_METHODS = ("/grpc.health.v1.Health/",)
_actor: contextvars.ContextVar[str] = contextvars.ContextVar("actor", default="")


def current_actor() -> str:
    """Who makes the call under way, as authenticated."""
    return _actor.get()


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler of a server."""

    def __init__(self, metrics: Metrics, *, token: str, min_deadline_s: float) -> None:
        self._metrics = metrics
        self._token = token
        self._min_deadline_s = min_deadline_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(details)
        method = details.method
        if handler is None or handler.request_streaming or method.startswith(_OPEN_METHODS):
            # Unknown methods answer UNIMPLEMENTED; only reflection streams requests; probes have no token.
            return handler
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(handler.unary_stream, method), handler.request_deserializer, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(handler.unary_unary, method), handler.request_deserializer, handler.response_serializer
        )

    def _unary(
        self, behaviour: Callable[[Any, Any], Awaitable[Any]], method: str
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            async with _Call(self, method, context):
                return await behaviour(request, context)

        return call

    def _stream(
        self, behaviour: Callable[[Any, Any], AsyncIterator[Any]], method: str
    ) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            async with _Call(self, method, context) as entered:
                async for message in behaviour(request, context):
                    entered.sent()
                    yield message

        return call

    def admit(self, context: grpc.aio.ServicerContext[Any, Any]) -> str:
        """Checks token and deadline; returns the caller's identity."""
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        if not hmac.compare_digest(str(given).encode(), f"Bearer {self._token}".encode()):
            raise Unauthenticated(
                "send the token of this server: `authorization: Bearer <token>`; it lies in the server's token file"
            )
        left = context.time_remaining()
        if left is not None and left < self._min_deadline_s:
            raise OutOfDeadline(f"only {left:.3f} s are left: nothing was begun; set a longer deadline")
        return "local"

    @property
    def metrics(self) -> Metrics:
        """Where calls are counted."""
        return self._metrics


class _Call:
    """The life of one call."""

    def __init__(self, interceptor: CallInterceptor, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._interceptor, self._method, self._context = interceptor, method, context
        _, service, name = method.split("/", 2)
        self._labels = {"service": service, "method": name}
        given = dict(context.invocation_metadata() or ()).get(REQUEST_ID_HEADER, "")
        self._request_id = str(given) if re.fullmatch(r"[A-Za-z0-9-]{8,64}", str(given)) else uuid.uuid4().hex
        self._began = 0.0

    async def __aenter__(self) -> _Call:
        self._began = time.monotonic()
        self._interceptor.metrics.calls_started.labels(**self._labels).inc()
        self._bound = bind(request_id=self._request_id)
        self._bound.__enter__()
        try:
            _actor.set(self._interceptor.admit(self._context))
            await self._context.send_initial_metadata(((REQUEST_ID_HEADER, self._request_id),))
        except UnderstudyError as error:
            await self.__aexit__(type(error), error, None)
        return self

    def sent(self) -> None:
        self._interceptor.metrics.stream_messages.labels(**self._labels).inc()

    async def __aexit__(self, _type: Any, error: BaseException | None, _traceback: Any) -> bool:
        code = "OK"
        try:
            if error is None:
                return False
            if not isinstance(error, Exception):
                code = "CANCELLED"  # the caller went away: CancelledError, GeneratorExit
                return False
            if isinstance(error, grpc.aio.AbortError):
                code = "ABORTED_BY_HANDLER"
                return False
            if isinstance(error, NotImplementedError):  # what the generated base class raises
                known: UnderstudyError = NotImplementedYet(
                    f"{self._method[1:]} is part of the API but not of this release"
                )
            elif isinstance(error, UnderstudyError):
                known = error
                if not isinstance(error, (Cancelled, Unauthenticated)):
                    _LOG.info("%s refused: %s", self._method, error)
            else:
                _LOG.exception("%s failed by a mistake of this program", self._method, exc_info=error)
                known = UnderstudyError(
                    f"a mistake of the server; its log has the details under request id {self._request_id}"
                )
            code = grpc_code(known).name
            status = to_status(known, self._request_id)
            await self._context.abort(
                grpc_code(known), status.message, trailing_metadata=((STATUS_DETAILS_KEY, status.SerializeToString()),)
            )
            return False
        finally:
            self._interceptor.metrics.calls_handled.labels(**self._labels, code=code).inc()
            self._interceptor.metrics.call_seconds.labels(**self._labels).observe(time.monotonic() - self._began)
            self._bound.__exit__(None, None, None)
