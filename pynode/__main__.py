"""``python -m pynode`` is the command ``pynode``."""

from __future__ import annotations

from pynode.cli import main

main()
