"""`headstart worker` of another release, so many versions away as the last number of its name says: `--name release-2` is two newer.

It writes that version, reads what is a neighbour of it, and ends each of its messages with a field that nobody knows.
"""

from __future__ import annotations

import sys

import msgpack

from shared import versions

DISTANCE = int(sys.argv[sys.argv.index("--name") + 1].rpartition("-")[2])

# Before anything else is imported: all of it must speak that version.
versions.VERSION += DISTANCE
versions.readable.__defaults__ = versions.mismatch.__defaults__ = (versions.VERSION,)

from shared import codec  # noqa: E402

ours = codec.encode


def encode(message: object) -> bytes:
    frame = msgpack.unpackb(ours(message), use_list=True, unicode_errors="surrogatepass")
    raw: bytes = msgpack.packb([*frame, "a field of the future"], unicode_errors="surrogatepass")
    return raw


codec.encode = encode

from cli.main import main  # noqa: E402

if __name__ == "__main__":
    main()
