import Config

# One Python node, started and supervised with the application.
config :snakebridge, python: [base: "demo_py"]
