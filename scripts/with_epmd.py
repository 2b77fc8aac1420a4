#!/usr/bin/env python3
"""Run a command with an EPMD of its own on the loopback interface: with_epmd.py COMMAND...

Where the home directory cannot be written to, the command gets a temporary one, too: a BEAM node
that has no cookie wants to make one there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from pynode.testing import Epmd


def main() -> int:
    """Return the exit status of the command."""
    with Epmd() as epmd, tempfile.TemporaryDirectory(prefix="pynode-") as home:
        environment = os.environ | epmd.env
        if not os.access(environment.get("HOME", ""), os.W_OK):
            environment["HOME"] = home
        return subprocess.run(sys.argv[1:], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
