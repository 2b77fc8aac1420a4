"""What real nodes have sent (`record_vectors.py`), as the beginning of what is fuzzed.

A line of a file is a target, a name, and the bytes in hexadecimal, after a ``z`` if they are
compressed.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Final

from pynode.protocol.flags import DEFAULT, DFlag

FOLDER: Final = Path(__file__).parent

# The Python side of each conversation.
US: Final = "py@127.0.0.1"
THEM: Final = "beam@127.0.0.1"
COOKIE: Final = "cookie"
CHALLENGE: Final = 0x11223344
CREATION: Final = 0xCAFE0001
PLAIN: Final = DEFAULT & ~DFlag.FRAGMENTS


def vectors(target: str) -> dict[str, bytes]:
    """Return the vectors of a target: by the file's name and theirs."""
    found = {}
    for path in sorted(FOLDER.glob("vectors-*.txt")):
        release = path.stem.removeprefix("vectors-")
        for line in path.read_text(encoding="ascii").splitlines():
            if line.startswith(f"{target} "):
                _, name, text = line.split()
                data = bytes.fromhex(text.removeprefix("z"))
                found[f"{release}-{name}"] = zlib.decompress(data) if text[0] == "z" else data
    return found
