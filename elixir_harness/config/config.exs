import Config

# For this project's own tests and for `iex -S mix`: one Python node, started and supervised here.
# Applications that depend on :snakebridge write their own.
config :snakebridge, python: []

if config_env() == :test do
  fixtures = Path.expand("../test/support/python", __DIR__)

  config :snakebridge, python: [env: [{"PYTHONPATH", fixtures}]]
  config :logger, level: :warning
end
