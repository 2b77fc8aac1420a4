#!/usr/bin/env bash
# Run dialyzer on the compiled code of the mix projects that are named, with a PLT of OTP and Elixir
# that is built once for each version of them (a minute).
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -gt 0 ] || exit 0

here=$PWD
elixir=$(elixir -e 'IO.puts(:code.lib_dir(:elixir))')
versions=$(elixir -e 'IO.puts("otp#{System.otp_release()}-elixir#{System.version()}")')
plt=.cache/$versions.plt
export ERL_LIBS=$(dirname "$(realpath "$elixir")")

mkdir -p .cache
if [ ! -f "$plt" ]; then
    echo "Building dialyzer's table of OTP and Elixir, once: about a minute."
    # Status 2: the applications use others that are not in the table.
    output=$(dialyzer --build_plt --output_plt "$plt.new" \
        --apps erts kernel stdlib crypto elixir logger 2>&1) || [ $? -eq 2 ] || {
        printf '%s\n' "$output" >&2
        exit 1
    }
    mv "$plt.new" "$plt"
fi

for project in "$@"; do
    app=$(sed -n 's/^ *app: :\([a-z_]*\).*/\1/p' "$project/mix.exs" | head -n 1)
    options=()
    for ebin in "$here/$project"/_build/dev/lib/*/ebin; do
        [ "$ebin" = "$here/$project/_build/dev/lib/$app/ebin" ] || options+=(-pa "$ebin")
    done
    dialyzer --quiet --plt "$plt" "${options[@]}" \
        -Wunmatched_returns -Werror_handling -Wextra_return -Wmissing_return \
        -r "$project/_build/dev/lib/$app/ebin"
done
