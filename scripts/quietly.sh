#!/usr/bin/env bash
# Run a command and show what it says only if it fails.
set -uo pipefail

output=$("$@" 2>&1) && exit 0
code=$?
printf '%s\n' "$output" >&2
exit "$code"
