#!/usr/bin/env bash
# Check the models in models/ with spin: nothing violates what they claim, each of their lines is
# reached, and each of the errors that can be built into them (BUG_...) is found.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v spin >/dev/null || ! command -v gcc >/dev/null; then
    echo "The models in models/ are not checked: install spin and a C compiler (Debian, as root:\
 apt-get install spin gcc libc6-dev), and run this again." >&2
    [ -z "${CI:-}" ] || exit 1
    exit 0
fi

give_up() {
    printf '%s\n' "$1" >&2
    exit 1
}

# Check one model, or with an argument -DBUG_... the one with this error in it. What is said about
# each claim, and the trail of its violation, go to .cache/models. False if a claim is violated.
holds() {
    local model=$1 bug=${2:-} directory=.cache/models/$1${2:-} optimize=-O1 claim
    [ -z "$bug" ] || optimize=-O0  # It is found at once: compiling takes longer.
    rm -rf "$directory"
    mkdir -p "$directory"
    cp models/*.pml "$directory"
    pushd "$directory" >/dev/null
    { spin ${bug:+"$bug"} -a "$model.pml" && gcc -w $optimize -o pan pan.c; } >made.out 2>&1 ||
        give_up "spin does not understand models/$model.pml: $(cat made.out)"
    for claim in $(sed -n 's/^ltl \([a-z_]*\) .*/\1/p' "$model.pml"); do
        ./pan -a -m100000 -N "$claim" >"$claim.out" 2>&1 || true
        if grep '^pan:.*\(violated\|cycle\)' "$claim.out" >violation; then
            popd >/dev/null
            return 1
        fi
        if ! grep -q 'errors: 0$' "$claim.out" ||
            grep -q 'max search depth too small\|out of memory\|not completed' "$claim.out"; then
            give_up "$model.pml is not searched to its end: $(cat "$claim.out")"
        fi
    done
    popd >/dev/null
}

check() {
    local model=$1 bug unreached
    holds "$model" || give_up "models/$model.pml does not hold: $(cat ".cache/models/$model/violation")
models/README.md says how to read the trail, in .cache/models/$model."
    # The end of what never ends does not count.
    unreached=$(grep -h \
        "^[[:space:]]$model.pml:.* state" ".cache/models/$model"/*.out | grep -v -e '-end-' || true)
    [ -z "$unreached" ] || give_up "A part of models/$model.pml is never reached: $unreached"
    for bug in $(sed -n 's/^#.*\(BUG_[A-Z_]*\).*/\1/p' "models/$model.pml" models/wire.pml | sort -u); do
        ! holds "$model" "-D$bug" ||
            give_up "The error $bug in models/$model.pml is not found: it claims too little."
    done
}

jobs=()
for model in call owners grace; do
    check "$model" &
    jobs+=($!)
done
status=0
for job in "${jobs[@]}"; do
    wait "$job" || status=1
done
exit $status
