"""The thread that owns everything of UCX: it takes commands, moves bytes, and sleeps when nothing is announced."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeVar

from shared.errors import TransportError
from workers.ucx_board import LINGER_S, Board

Answer = TypeVar("Answer")

SPIN_S = 0.001
"""How long a busy thread only yields its core before it naps: a stalled or dead peer must not cost a core."""
SHORTEST_NAP_S, LONGEST_NAP_S = 0.00005, 0.004
"""A nap is a quarter of the silence before it: a peer that is slow costs a few looks and not one each millisecond."""
LATE_NAP_S = 0.02
HOUSEKEEPING_S = 60.0


class ProgressThread:
    """Runs one board. `ask` and `tell` may be called from any thread, callbacks included."""

    def __init__(self, make_board: Callable[[], Board], name: str) -> None:
        self._commands: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._make_board = make_board
        self._board: Board | None = None
        self._open = True
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Raises what making the board raises."""
        self._thread.start()
        self.ask(lambda board: None)

    def ask(self, command: Callable[[Board], Answer]) -> Answer:
        """Does it in the thread and waits for its answer, or its error."""
        answer: Future[Answer] = Future()
        self.tell(lambda board: _answer(answer, command, board))
        if threading.current_thread() is self._thread:
            self._obey()
        return answer.result()

    def tell(self, command: Callable[[Board], None]) -> None:
        """Does it in the thread, soon and in order. Raises `TransportError` once closed."""
        with self._lock:
            if not self._open:
                raise TransportError("the transport is closed")
            self._commands.put(lambda: command(self._living()))

    def stop(self) -> None:
        """Closes the board and waits for the thread to end."""
        with self._lock:
            was_open, self._open = self._open, False
        if was_open:
            self._commands.put(lambda: None)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def _living(self) -> Board:
        if self._board is None:
            self._board = self._make_board()
        return self._board

    def _run(self) -> None:
        while self._open:
            self._obey()
            if self._board is not None:
                self._board.visit(time.monotonic())
            self._rest()
        self._obey()
        if self._board is not None:
            self._board.close()

    def _obey(self) -> None:
        try:
            while True:
                self._commands.get_nowait()()
        except Empty:
            return

    def _rest(self) -> None:
        nap = _nap(self._board, time.monotonic())
        if nap == 0.0:
            os.sched_yield()  # the peer may be waiting for this very core
            return
        try:
            command = self._commands.get(timeout=nap)
        except Empty:
            return
        command()


def _nap(board: Board | None, now: float) -> float | None:
    """Seconds to sleep unless a command comes; 0: go on at once, None: until one comes."""
    if board is None or board.empty:
        return None
    quiet = board.quiet_s(now)
    if board.busy:
        return 0.0 if quiet < SPIN_S else _share_of(quiet, LONGEST_NAP_S)
    if quiet < LINGER_S:
        return _share_of(quiet, LATE_NAP_S)
    return LATE_NAP_S if board.late else HOUSEKEEPING_S


def _share_of(quiet: float, longest: float) -> float:
    return min(max(quiet / 4, SHORTEST_NAP_S), longest)


def _answer(answer: Future[Answer], command: Callable[[Board], Answer], board: Board) -> None:
    try:
        answer.set_result(command(board))
    except BaseException as error:
        answer.set_exception(error)
