"""A profile that need not be measured: for tests whose answers do not depend on how fast a worker is believed to be."""

from __future__ import annotations

from pathlib import Path

from shared.profile import Profile
from shared.profile_document import ProfileDocument, ProfileKey
from workers.profile_files import write_profile

STEADY = Profile(2e-3, 2e-5, 1e-9, 1e-4, 1e-8, 1000, 1e-3, 1e9)
"""About that of a tiny model on one core."""


def given_profile(folder: Path) -> tuple[str, str]:
    """Options of a worker that believes it at once, instead of measuring itself for some ten seconds on its first start."""
    path = folder / "profile.json"
    write_profile(path, ProfileDocument(ProfileKey("a CPU", "tiny", "", "float32", "torch", 512, 32, 16), STEADY, 1, 0))
    return "--profile", str(path)
