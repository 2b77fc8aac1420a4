#!/usr/bin/env bash
# Build the parts that are compiled from Cython with AddressSanitizer and UndefinedBehaviorSanitizer in
# a directory of their own, and run the tests of the codec and of the protocol with them. Reports end
# the run. Arguments are pytest's, in place of those tests.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp -r pynode tests "$folder"
find "$folder" -name '*.so' -delete
python=$PWD/.venv/bin/python
cd "$folder"

flags='-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -g'
"$python" -m pip install --quiet --disable-pip-version-check --target tools 'Cython>=3.1' setuptools
CFLAGS=$flags LDFLAGS=$flags PYTHONPATH=tools "$python" -m Cython.Build.Cythonize --quiet --inplace \
    pynode/*/*.pyx

cp "$OLDPWD/pyproject.toml" .

# What is built so needs a larger stack.
sed -i 's/stack_size(256 \* 1024)/stack_size(4096 * 1024)/' tests/etf/test_etf_*code.py
# Python's own allocator would hide what is read after it was freed; and Python keeps memory until its
# end, which is no leak.
[ $# -gt 0 ] || set -- tests/etf tests/protocol tests/test_identifiers.py tests/test_terms.py \
    tests/fuzz/test_damage.py
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc \
    PYTHONPATH=$folder "$python" -m pytest -q --capture=sys -p no:cacheprovider -o timeout=600 "$@"
