"""End a process that does not react to Ctrl-C or SIGTERM: one of several that waits for another sits in C++.

Python hands the number of each signal to a file descriptor at once, and a thread can read that.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable
from types import TracebackType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOOK = 1.0  # seconds between looks after the parent process


class HardExitWatchdog:
    """End the process, inside, when a signal has not ended it in `grace` seconds, or its `parent` (an id) is gone.

    `on_exit` is called with the signal's number just before the hard end.
    """

    def __init__(self, grace: float, on_exit: Callable[[int], None], parent: int | None) -> None:
        self._grace = grace
        self._farewell = on_exit
        self._parent = parent
        self._closed = threading.Event()

    def __enter__(self) -> None:
        """Begin to watch; only a main thread gets signals."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._reader.settimeout(_LOOK)
        self._before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="last-resort", daemon=True)
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Stop watching: what runs now reacts by itself."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._closed.set()
        signal.set_wakeup_fd(self._before)
        self._writer.close()
        self._thread.join()
        self._reader.close()

    def _watch(self) -> None:
        while not self._closed.is_set():
            if self._parent is not None and os.getppid() != self._parent:
                os._exit(1)
            try:
                number = self._reader.recv(1)
            except TimeoutError:
                continue
            if not number:
                return
            if number[0] in _SIGNALS and not self._closed.wait(self._grace):
                self._farewell(number[0])
                os._exit(128 + number[0])
