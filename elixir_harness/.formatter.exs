# These three files say what the public names must do, and keep the form in which they were agreed on.
fixed =
  for name <- ~w(auto_ref session_context session_manager),
      do: "test/snakebridge/#{name}_test.exs"

patterns = [
  "{mix,.formatter}.exs",
  "{config,lib,test}/**/*.{ex,exs}",
  "examples/*/{mix,.formatter}.exs",
  "examples/*/{config,lib}/**/*.{ex,exs}"
]

[inputs: Enum.flat_map(patterns, &Path.wildcard(&1, match_dot: true)) -- fixed]
