"""The server's wall clock, set by a file: libfaketime where it is installed; else it goes as it is, and that is said."""

from __future__ import annotations

import shlex
from pathlib import Path

from shared.server import valkey_executable

WHERE = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1", "/usr/local/lib/faketime/libfaketimeMT.so.1")


class WallClock:
    """Of a server that is started as `executable`. Intervals stay true: only the wall clock jumps, as when somebody sets it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self._script = folder / "server-by-this-clock"
        found = [path for pattern in WHERE for path in sorted(Path("/").glob(pattern.lstrip("/")))]
        self.why_not = "" if found else "libfaketime is not installed"
        """Why it cannot be set; empty: it can."""
        self.executable: Path | None = self._script if found else None
        if found:
            self._write(found[0])

    def _write(self, library: Path) -> None:
        settings = {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": self._file,
            "FAKETIME_CACHE_DURATION": 1,
            "FAKETIME_DONT_FAKE_MONOTONIC": 1,
        }
        words = [f"{name}={shlex.quote(str(value))}" for name, value in settings.items()]
        self.set(0)
        self._script.write_text(f'#!/bin/sh\nexec env {" ".join(words)} {shlex.quote(str(valkey_executable()))} "$@"\n')
        self._script.chmod(0o700)

    def set(self, ahead_s: int) -> None:
        """Whoever runs by it is so far ahead within a second; negative: behind."""
        self._file.write_text(f"{ahead_s:+d}s\n")
