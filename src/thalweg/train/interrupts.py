"""Signals, heard between stretches of steps, so that a run ends with a checkpoint and not in the middle of one."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupts:
    """While open, the first SIGINT or SIGTERM is noted instead of killing; a second one, of either, acts as always.

    A signal that the process ignored before, as a job in the background ignores SIGINT, stays ignored.

    Args:
        listen: whether to take the signals over. Only the main thread can.
    """

    def __init__(self, *, listen: bool):
        self.listen = listen and threading.current_thread() is threading.main_thread()
        self.arrived: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if self.listen:
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):  # None: set outside Python, which could not put it back
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.arrived = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, before = self._before.popitem()
            signal.signal(number, before)
