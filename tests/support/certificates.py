"""A certificate authority of a test, and what it signed."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True, slots=True)
class Authority:
    """Everything lies in `folder`: `NAME.pem` and `NAME.key`."""

    folder: Path

    def __post_init__(self) -> None:
        self._run(
            "req", "-x509", *KEY, "-days", "2", "-subj", "/CN=test authority", "-keyout", self.key("ca"), "-out", self.certificate("ca")
        )

    def certificate(self, name: str) -> str:
        return str(self.folder / f"{name}.pem")

    def key(self, name: str) -> str:
        return str(self.folder / f"{name}.key")

    def sign(self, name: str) -> None:
        """For loopback, as a server and as a client."""
        signed = ("-CA", self.certificate("ca"), "-CAkey", self.key("ca"), "-days", "2", "-addext", "subjectAltName=IP:127.0.0.1")
        self._run("req", "-x509", *KEY, *signed, "-subj", f"/CN={name}", "-keyout", self.key(name), "-out", self.certificate(name))

    def _run(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)
