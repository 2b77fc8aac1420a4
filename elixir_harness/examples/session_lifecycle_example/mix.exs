defmodule SessionLifecycleExample.MixProject do
  use Mix.Project

  def project do
    [
      app: :session_lifecycle_example,
      version: "0.1.0",
      elixir: "~> 1.14",
      deps: [{:snakebridge, path: "../.."}]
    ]
  end

  def application, do: [extra_applications: [:logger]]
end
