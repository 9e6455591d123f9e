"""Signals, heard between stretches of steps, so that a run ends with a checkpoint and not in the middle of one."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupts:
    """While open, SIGINT and SIGTERM are noted instead of killing; a second one acts as it always does.

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
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.arrived = signal.Signals(number)
        signal.signal(number, self._before[number])
