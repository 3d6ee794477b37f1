"""Profiles on this host: one JSON file each, in a folder that every worker of the host shares, and one who measures at a time."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import ConfigError
from shared.profile_document import ProfileDocument, ProfileKey

log = logging.getLogger(__name__)

FOLDER_VARIABLE = "HEADSTART_PROFILES"
PATIENCE_S = 130.0
"""How long another's measurement is waited for: the longest that one takes."""
POLL_S = 0.1


def profiles_folder() -> Path:
    """`HEADSTART_PROFILES`, or `headstart/profiles` in the user's cache folder."""
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headstart" / "profiles"


def read_profile(path: Path) -> ProfileDocument:
    """Raises `ConfigError` that names the file and what is wrong with it."""
    try:
        return ProfileDocument.from_json(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; `headstart profile --output FILE` writes such a file") from error


def write_profile(path: Path, document: ProfileDocument) -> None:
    """Whole or not at all. Raises `ConfigError` if it cannot."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, written = tempfile.mkstemp(dir=path.parent, prefix=".profile-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(document.to_json())
        os.replace(written, path)
    except OSError as error:
        raise ConfigError(f"{path}: the profile cannot be written: {error.strerror}") from error


def find_file(key: ProfileKey) -> ProfileDocument | None:
    """This host's own measurement of exactly this; one that cannot be read is told and passed over."""
    path = file_of(key)
    if not path.is_file():
        return None
    try:
        document = read_profile(path)
    except ConfigError as error:
        log.warning("a kept profile is not used: %s", error)
        return None
    return document if document.key == key else None


def keep_file(document: ProfileDocument) -> None:
    """A host on which nothing can be kept measures again next time."""
    try:
        write_profile(file_of(document.key), document)
    except ConfigError as error:
        log.warning("%s", error)


def file_of(key: ProfileKey) -> Path:
    return profiles_folder() / f"{key.digest}.json"


@contextmanager
def measuring_alone() -> Iterator[None]:
    """One measurement at a time on this host, or they would measure each other. Who waits too long, or may not lock, goes on."""
    try:
        folder = profiles_folder()
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".measuring").open("w")
    except OSError as error:
        log.warning("nobody is kept from measuring at the same time: %s", error)
        yield
        return
    with lock:
        _wait_for(lock.fileno())
        yield


def _wait_for(descriptor: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(POLL_S)
        else:
            return
    log.warning("another measurement of this host has not ended in %.0f s: measuring beside it", PATIENCE_S)
