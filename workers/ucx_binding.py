"""The few calls of UCP's C API that the transport needs, by ctypes.

Why not through `ucxx`, which loads the very same library: its workers and its requests hold each other, so a worker with an
operation that never completes (a killed peer) is never destroyed, keeps its shared memory and its file descriptors, and
now and then takes the process down on the way out. UCP itself has what is needed: `ucp_worker_destroy` ends everything, and a
completed receive says how long the message was. Structures and flags are those of `ucp/api/ucp.h`, whose ABI is kept
across 1.x by field masks; offsets were checked against the header.

Objects belong to one thread. Calls that may take long release the GIL (`ctypes.CDLL`), the short ones keep it
(`ctypes.PyDLL`): next to a GIL-bound thread every release costs a switch interval of 5 ms.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import POINTER, byref, c_byte, c_char, c_char_p, c_int, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from functools import partial
from importlib import import_module
from typing import Final

import numpy as np

from shared.errors import TransportError

OK: Final = 0
IN_PROGRESS: Final = 1

_FEATURE_TAG = 1 << 0
_CONTEXT_FEATURES = 1 << 0
_WORKER_THREAD_MODE = 1 << 0
_THREAD_MODE_SERIALIZED = 1
_ENDPOINT_REMOTE_ADDRESS = 1 << 0
_ENDPOINT_TRANSPORTS = 1 << 3
_OPERATION_MEMORY_TYPE = 1 << 6
_OPERATION_NEVER_IMMEDIATE = 1 << 16
_MEMORY_HOST = 0
_MAX_TRANSPORTS = 16
_SLOW_WITH_STATUS = (
    "ucp_config_read",
    "ucp_config_modify",
    "ucp_init_version",
    "ucp_worker_create",
    "ucp_worker_get_address",
    "ucp_ep_create",
    "ucp_ep_query",
)
_FULL_MASK = (1 << 64) - 1


class _ContextParams(ctypes.Structure):
    """`ucp_params_t`: fields beyond the mask are not read."""

    _fields_ = (("field_mask", c_uint64), ("features", c_uint64), ("rest", c_char * 72))


class _WorkerParams(ctypes.Structure):
    """`ucp_worker_params_t`."""

    _fields_ = (("field_mask", c_uint64), ("thread_mode", c_int), ("rest", c_char * 184))


class _EndpointParams(ctypes.Structure):
    """`ucp_ep_params_t`. No error handling mode: with one, UCX leaves its shared memory transports out."""

    _fields_ = (("field_mask", c_uint64), ("address", c_char_p), ("rest", c_char * 88))


class _OperationParams(ctypes.Structure):
    """`ucp_request_param_t`: contiguous bytes are the default datatype."""

    _fields_ = (
        ("op_attr_mask", c_uint32),
        ("flags", c_uint32),
        ("middle", c_char * 40),
        ("memory_type", c_int),
        ("rest", c_char * 16),
    )


class _ReceiveInfo(ctypes.Structure):
    """`ucp_tag_recv_info_t`."""

    _fields_ = (("sender_tag", c_uint64), ("length", c_size_t))


class _TransportEntry(ctypes.Structure):
    """`ucp_transport_entry_t`."""

    _fields_ = (("transport", c_char_p), ("device", c_char_p))


class _EndpointAttributes(ctypes.Structure):
    """`ucp_ep_attr_t`."""

    _fields_ = (
        ("field_mask", c_uint64),
        ("middle", c_char * 288),
        ("entries", POINTER(_TransportEntry)),
        ("num_entries", c_uint),
        ("entry_size", c_size_t),
        ("user_data", c_void_p),
    )


_HOST_OPERATION = _OperationParams(
    op_attr_mask=_OPERATION_MEMORY_TYPE | _OPERATION_NEVER_IMMEDIATE, memory_type=_MEMORY_HOST
)  # never completed on the spot: every operation has a handle to ask


class _Ucp:
    """`libucp`, loaded once: from the wheel `libucx`, or the system's if there is none or it is preferred."""

    def __init__(self) -> None:
        loaded = _load()
        self.slow, self.quick = loaded, ctypes.PyDLL(loaded._name, handle=loaded._handle)
        for name in _SLOW_WITH_STATUS:
            getattr(self.slow, name).restype = c_byte  # ucs_status_t is a packed enum
        for name in ("ucp_tag_recv_request_test", "ucp_request_check_status"):
            getattr(self.quick, name).restype = c_byte
        for name in ("ucp_tag_recv_nbx", "ucp_tag_send_nbx", "ucp_tag_probe_nb"):
            getattr(self.quick, name).restype = c_void_p
        self.quick.ucp_tag_recv_nbx.argtypes = (c_void_p, c_void_p, c_size_t, c_uint64, c_uint64, c_void_p)
        self.quick.ucp_tag_send_nbx.argtypes = (c_void_p, c_void_p, c_size_t, c_uint64, c_void_p)
        self.quick.ucp_tag_probe_nb.argtypes = (c_void_p, c_uint64, c_uint64, c_int, c_void_p)
        self.quick.ucp_tag_recv_request_test.argtypes = (c_void_p, c_void_p)
        self.quick.ucp_request_check_status.argtypes = (c_void_p,)
        self.quick.ucp_request_free.argtypes = (c_void_p,)
        self.quick.ucp_request_cancel.argtypes = (c_void_p, c_void_p)
        self.quick.ucp_worker_progress.argtypes = (c_void_p,)
        self.quick.ucp_worker_progress.restype = c_uint


def _load() -> ctypes.CDLL:
    os.environ.setdefault("UCX_LOG_FILE", "stderr")  # read as the library is loaded; stdout belongs to the program
    try:
        libraries: list[ctypes.CDLL | None] = import_module("libucx").load_library()
        return next(library for library in libraries if library is not None and hasattr(library, "ucp_init_version"))
    except (ModuleNotFoundError, StopIteration):
        pass
    try:
        return ctypes.CDLL("libucp.so.0")
    except OSError as error:
        raise TransportError("UCX was not found: install the package ucxx-cu13, or libucp on this system") from error


_ucp: _Ucp | None = None


def ucp() -> _Ucp:
    """The library; loading it takes milliseconds and happens with the first context."""
    global _ucp
    if _ucp is None:
        _ucp = _Ucp()
    return _ucp


def _check(status: int, what: str) -> None:
    if status != OK:
        raise TransportError(f"UCX cannot {what}: {describe(status)}")


def version() -> str:
    """Of the UCX that was found, e.g. `1.21.0`."""
    text = ucp().slow.ucp_get_version_string
    text.restype = c_char_p
    return str(text().decode())


def describe(status: int) -> str:
    """UCX's own words for a status."""
    text = ucp().slow.ucs_status_string
    text.restype = c_char_p
    words = text(c_int(status))
    return words.decode() if words else f"status {status}"


_NOTHING = memoryview(b"")


class Operation:
    """A send or a receive that has been started. Holds its buffer until it is done: UCX only has the pointer."""

    __slots__ = ("_buffer", "_handle", "_receive", "length", "status")

    def __init__(self, handle: int, buffer: memoryview, receive: bool) -> None:
        self._handle, self._buffer, self._receive = handle, buffer, receive
        self.status = IN_PROGRESS
        self.length = 0
        """Of a completed receive: the bytes of the message."""

    def done(self) -> bool:
        """Asks UCX, unless the end is already known. `status` then says how it ended."""
        if self.status == IN_PROGRESS:
            self._ask()
        return self.status != IN_PROGRESS

    def cancel(self, worker: c_void_p) -> None:
        if not self.done():
            ucp().quick.ucp_request_cancel(worker, self._handle)

    def _ask(self) -> None:
        if self._receive:
            info = _ReceiveInfo()
            self.status = ucp().quick.ucp_tag_recv_request_test(self._handle, byref(info))
            self.length = info.length
        else:
            self.status = ucp().quick.ucp_request_check_status(self._handle)
        if self.status != IN_PROGRESS:
            ucp().quick.ucp_request_free(self._handle)
            self._buffer = _NOTHING


class Context:
    """One per process side: reads `UCX_*` from the environment, then applies `options` over it."""

    def __init__(self, options: dict[str, str]) -> None:
        config, self._handle = c_void_p(), c_void_p()
        _check(ucp().slow.ucp_config_read(None, None, byref(config)), "read its configuration")
        try:
            for name, value in options.items():
                _check(ucp().slow.ucp_config_modify(config, name.encode(), value.encode()), f"take {name}={value}")
            params = _ContextParams(field_mask=_CONTEXT_FEATURES, features=_FEATURE_TAG)
            _check(ucp().slow.ucp_init_version(1, 10, byref(params), config, byref(self._handle)), "start")
        finally:
            ucp().slow.ucp_config_release(config)

    def worker(self) -> Worker:
        return Worker(self._handle)

    def close(self) -> None:
        """After all its workers are destroyed."""
        with _hushed():
            ucp().slow.ucp_cleanup(self._handle)


class Worker:
    """A `ucp_worker`: its own address, its own queues, its own end."""

    def __init__(self, context: c_void_p) -> None:
        self._handle = c_void_p()
        params = _WorkerParams(field_mask=_WORKER_THREAD_MODE, thread_mode=_THREAD_MODE_SERIALIZED)
        _check(ucp().slow.ucp_worker_create(context, byref(params), byref(self._handle)), "create a worker")
        self.address = self._own_address()
        self.progress: Callable[[], int] = partial(ucp().quick.ucp_worker_progress, self._handle)
        """Moves what can be moved without waiting, a FIFO's worth at most; 0 if nothing moved. Called a million times a second."""

    def _own_address(self) -> bytes:
        address, length = c_void_p(), c_size_t()
        _check(ucp().slow.ucp_worker_get_address(self._handle, byref(address), byref(length)), "tell its address")
        try:
            return ctypes.string_at(address, length.value)
        finally:
            ucp().slow.ucp_worker_release_address(self._handle, address)

    def connect(self, address: bytes) -> Endpoint:
        """An endpoint to the worker with that address. Nothing is sent yet. Raises `TransportError` if it is unreachable."""
        return Endpoint(self._handle, address)

    def stray(self) -> int | None:
        """The tag of the oldest message that came and matches no receive."""
        info = _ReceiveInfo()
        if ucp().quick.ucp_tag_probe_nb(self._handle, 0, 0, 0, byref(info)) is None:
            return None
        return int(info.sender_tag)

    def receive(self, tag: int, into: memoryview) -> Operation:
        """Posts a receive for the message with exactly this tag. One that is too long for `into` ends in an error."""
        handle = ucp().quick.ucp_tag_recv_nbx(self._handle, _pointer(into), len(into), tag, _FULL_MASK, byref(_HOST_OPERATION))
        return Operation(_operation(handle), into, receive=True)

    def cancel(self, operation: Operation) -> None:
        """Takes a receive back, if its message has not begun to come; else nothing happens. `operation.done()` tells which."""
        operation.cancel(self._handle)

    def destroy(self) -> None:
        """Ends every operation of this worker: afterwards nothing of it writes or reads memory. Takes some milliseconds."""
        with _hushed():
            ucp().slow.ucp_worker_destroy(self._handle)


class Endpoint:
    """Where a worker sends to. It ends with its worker."""

    def __init__(self, worker: c_void_p, address: bytes) -> None:
        self._handle = c_void_p()
        params = _EndpointParams(field_mask=_ENDPOINT_REMOTE_ADDRESS, address=address)
        _check(ucp().slow.ucp_ep_create(worker, byref(params), byref(self._handle)), "reach the peer")

    def send(self, tag: int, payload: memoryview) -> Operation:
        """`payload` must stay as it is until the operation is done."""
        handle = ucp().quick.ucp_tag_send_nbx(self._handle, _pointer(payload), len(payload), tag, byref(_HOST_OPERATION))
        return Operation(_operation(handle), payload, receive=False)

    def transports(self) -> str:
        """What UCX chose for this endpoint, e.g. `posix/memory tcp/eth0`."""
        entries = (_TransportEntry * _MAX_TRANSPORTS)()
        size = ctypes.sizeof(_TransportEntry)
        attributes = _EndpointAttributes(field_mask=_ENDPOINT_TRANSPORTS, entries=entries, num_entries=_MAX_TRANSPORTS, entry_size=size)
        _check(ucp().slow.ucp_ep_query(self._handle, byref(attributes)), "tell its transports")
        chosen = entries[: attributes.num_entries]
        return " ".join(sorted({f"{entry.transport.decode()}/{entry.device.decode()}" for entry in chosen}))


@contextmanager
def _hushed() -> Iterator[None]:
    """UCX warns of each operation that was cut off, one line per object, which is just what a destruction is for."""
    library, level = ucp().slow, ctypes.create_string_buffer(32)
    library.ucs_global_opts_get_value(b"LOG_LEVEL", level, c_size_t(len(level)))
    library.ucs_global_opts_set_value(b"LOG_LEVEL", b"error")
    try:
        yield
    finally:
        library.ucs_global_opts_set_value(b"LOG_LEVEL", level.value)


def _pointer(view: memoryview) -> int | None:
    return int(np.frombuffer(view, np.uint8).__array_interface__["data"][0]) if len(view) else None


def _operation(handle: int | None) -> int:
    """`UCS_PTR_IS_ERR`: the last hundred addresses are error codes."""
    if handle is None:
        raise TransportError("UCX completed on the spot what it was told not to")
    if handle > _FULL_MASK - 100:
        raise TransportError(f"UCX cannot start an operation: {describe(handle - _FULL_MASK - 1)}")
    return handle
