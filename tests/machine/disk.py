"""A disk of our own for the server's data, small enough to be filled. It needs root; without, nothing is filled, and that is said."""

from __future__ import annotations

import subprocess
from pathlib import Path

MIB = 2**20
SIZE_MIB = 1024
FILLER = "filler"


class SmallDisk:
    """Memory mounted at `path` as a file system."""

    def __init__(self, path: Path, size_mib: int = SIZE_MIB) -> None:
        self.path = path
        self._size_mib = size_mib
        self.why_not = ""
        """Why there is none; empty: there is one."""

    def mount(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={self._size_mib}m,mode=700", "headstart-machine", str(self.path)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            self.why_not = str(getattr(error, "stderr", "") or error).strip()

    def unmount(self) -> None:
        if not self.why_not:
            subprocess.run(["umount", str(self.path)], check=True, capture_output=True)
            self.why_not = "unmounted"

    def fill(self) -> None:
        """Until nothing more can be written."""
        with open(self.path / FILLER, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(MIB))
            except OSError:
                return

    def clear(self) -> None:
        (self.path / FILLER).unlink(missing_ok=True)
