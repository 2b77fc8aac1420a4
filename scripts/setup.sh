#!/usr/bin/env bash
# Install what `make` needs and does not find: Erlang and Elixir from Debian's packages, and the
# virtual environment .venv with this project in it; with the argument `tests` also what only the
# tests need. Compile again what was edited. Silent when there is nothing to do.
set -euo pipefail
cd "$(dirname "$0")/.."

log=.cache/setup.log
stamp=.cache/setup.stamp
mkdir -p .cache

# What this set-up depends on, and what the compiled modules do: the types and constants of all the
# others are in there. Each stamp is written when all of that is done.
current=$(cat pyproject.toml scripts/setup.sh | cksum)
sources=$(find pynode -name '*.py' -o -name '*.py[ix]' -o -name '*.pxd' | LC_ALL=C sort | xargs cat setup.py | cksum)
compiled=.cache/compiled.stamp

python_is_good() { "$1" -c 'import sys, venv, ensurepip; assert sys.version_info >= (3, 11)' 2>/dev/null; }

find_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if python_is_good "$name"; then
            command -v "$name"
            return
        fi
    done
    return 1
}

otp_is_good() {
    erl -noinput -boot no_dot_erlang -eval '
        Missing = [A || A <- [crypto, parsetools, ssl, dialyzer], is_tuple(code:lib_dir(A))],
        Release = list_to_integer(erlang:system_info(otp_release)),
        halt(case Missing =:= [] andalso Release >= 25 of true -> 0; false -> 1 end).' \
        >/dev/null 2>&1 && command -v dialyzer epmd >/dev/null
}

has_headers() {
    "$(find_python || echo false)" -c 'import os, sysconfig
assert os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))' 2>/dev/null
}

give_up() {
    [ ! -s "$log" ] || tail -n 30 "$log" >&2
    printf '%s\n' "$1" >&2
    exit 1
}

# Without a compiler Python runs the modules as they are; with one, something is wrong with them.
finish() {
    local name
    name=$(env -u PYNODE_PURE .venv/bin/python -m pynode --version) || give_up "The command does not start: see above."
    case $name in
    *", compiled") ;;
    *) ! { command -v gcc && has_headers; } >/dev/null ||
        give_up "The modules that setup.py names could not be compiled: see above, and $log." ;;
    esac
    printf '%s\n' "$sources" >"$compiled"
}

purpose=${1:-use}
done_before=$(cat "$stamp" 2>/dev/null || true)
if [ -x .venv/bin/python ] &&
    { [ "$done_before" = "$current $purpose" ] || [ "$done_before" = "$current tests" ]; } &&
    command -v mix erl dialyzer >/dev/null; then
    [ "$(cat "$compiled" 2>/dev/null || true)" != "$sources" ] || exit 0
    echo "Compiling what was edited ..."
    .venv/bin/python setup.py --quiet build_ext --inplace >"$log" 2>&1 </dev/null ||
        give_up "setup.py could not compile the modules: see above, and the whole of it in $log."
    finish
    exit 0
fi

: >"$log"
packages=()
find_python >/dev/null || packages+=(python3 python3-venv)
otp_is_good || packages+=(erlang-base erlang-crypto erlang-dev erlang-dialyzer erlang-ssl)
command -v mix >/dev/null || packages+=(elixir)
# What it goes without if need be: a compiler for the compiled parts, spin for the models, and nodes
# in C and Java and networks for the tests.
extras=()
command -v gcc >/dev/null || extras+=(gcc libc6-dev)
has_headers || extras+=(python3-dev)
command -v spin >/dev/null || extras+=(spin)
if [ "$purpose" = tests ]; then
    [ -e /usr/include/ei.h ] || extras+=(erlang-dev)
    command -v javac >/dev/null || extras+=(default-jdk-headless)
    [ -e /usr/share/java/OtpErlang.jar ] || extras+=(erlang-jinterface)
    command -v ip >/dev/null || extras+=(iproute2)
    # The code of :observer, of which the tests run a part.
    compgen -G '/usr/lib/erlang/lib/observer-*/src' >/dev/null || extras+=(erlang-src)
fi

can_install=yes
if [ ${#packages[@]} -gt 0 ] || [ ${#extras[@]} -gt 0 ]; then
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
            as_root=(sudo -n)
        else
            as_root=(false)
        fi
    fi
    if ! command -v apt-get >/dev/null || [ "${as_root[*]}" = false ]; then
        can_install=no
        [ ${#packages[@]} -eq 0 ] ||
            give_up "Please install Python 3.11 or later with venv, Erlang/OTP 25 or later with\
 dialyzer, and Elixir 1.14 or later, and run this again (Debian, as root: apt-get install\
 ${packages[*]})."
        printf '%s\n' "Going on without the parts that are compiled, and the checks and tests that need\
 more: for them, install what is missing (Debian, as root: apt-get install ${extras[*]})." >&2
    fi
fi
if [ "$can_install" = yes ] && [ $((${#packages[@]} + ${#extras[@]})) -gt 0 ]; then
    packages+=(${extras[@]+"${extras[@]}"})
    echo "Installing ${packages[*]} ..."
    apt() {
        ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive \
            apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" >>"$log" 2>&1 </dev/null
    }
    { apt update && apt install --no-install-recommends "${packages[@]}"; } ||
        give_up "apt-get could not install ${packages[*]}: see above, and the whole of it in $log."
    hash -r
    find_python >/dev/null ||
        give_up "This system's Python is older than 3.11 or has no venv: install a later one."
    otp_is_good ||
        give_up "This system's Erlang/OTP is older than 25: install a later one, with dialyzer."
fi

if ! python_is_good .venv/bin/python; then
    rm -rf .venv
    "$(find_python)" -m venv .venv >>"$log" 2>&1 </dev/null ||
        give_up "The virtual environment .venv could not be made: see above."
fi

echo "Installing Python packages into .venv ..."
# In compat mode the package is found even from a directory with a checkout called pynode in it.
[ -w "${HOME:-/nonexistent}" ] || export PIP_CACHE_DIR=$PWD/.cache/pip
.venv/bin/python -m pip install --disable-pip-version-check --no-input --quiet \
    --config-settings editable_mode=compat --editable '.[test,dev]' >>"$log" 2>&1 </dev/null ||
    give_up "pip could not install the project and its tools: see above, and the whole of it in $log."

finish
printf '%s\n' "$current $purpose" >"$stamp"
