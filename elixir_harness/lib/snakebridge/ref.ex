defmodule SnakeBridge.Ref do
  @moduledoc """
  Stands for one object that lives in a Python node.

  A ref is a plain value: it may be sent to other processes and nodes, kept in a map, compared with
  `==/2`. It does not keep its object alive. The object lives until its session ends, that is until
  the session's last owner has exited (see `SnakeBridge.SessionContext`), or until it is released.

    * `id` - an Erlang reference; `node(ref.id)` is the Python node that holds the object
    * `session_id` - the session that the object lives in
    * `python_module`, `type_name` - where the object's type is defined, and its name
    * `library` - the first part of `python_module`
    * `schema` - the version of this struct, 1

  Refs are made by Python nodes alone.
  """

  @enforce_keys [:id]
  defstruct [:id, :session_id, :python_module, :library, :type_name, schema: 1]

  @type t :: %__MODULE__{
          id: reference(),
          session_id: String.t() | nil,
          python_module: String.t() | nil,
          library: String.t() | nil,
          type_name: String.t() | nil,
          schema: pos_integer()
        }
end

defmodule SnakeBridge.StreamRef do
  @moduledoc """
  Stands for an iterator that lives in a Python node: a generator, a file, a database cursor.

  It is used like a `SnakeBridge.Ref`, and it is `Enumerable`:

      {:ok, lines} = SnakeBridge.call("builtins", "open", ["/etc/hosts"])
      Enum.count(lines)

  As in Python, an iterator can be gone through once. When an enumeration ends, whether at the end,
  early (`Enum.take/2`) or by an exception, the iterator is released, and a generator closed. Items
  are fetched several at a time, more when they come quickly, so some may have been produced that
  the enumeration did not get to. `SnakeBridge.next/3` and `SnakeBridge.stream/2` give control.
  """

  @enforce_keys [:id]
  defstruct [:id, :session_id, :python_module, :library, :type_name, schema: 1]

  @type t :: %__MODULE__{
          id: reference(),
          session_id: String.t() | nil,
          python_module: String.t() | nil,
          library: String.t() | nil,
          type_name: String.t() | nil,
          schema: pos_integer()
        }
end

defimpl Enumerable, for: SnakeBridge.StreamRef do
  def reduce(ref, acc, fun), do: Enumerable.reduce(SnakeBridge.stream(ref), acc, fun)
  def count(_ref), do: {:error, __MODULE__}
  def member?(_ref, _element), do: {:error, __MODULE__}
  def slice(_ref), do: {:error, __MODULE__}
end

defimpl Inspect, for: [SnakeBridge.Ref, SnakeBridge.StreamRef] do
  # `#SnakeBridge.Ref<Counter in collections, auto_<0.123.0>_1735707045000 on py@127.0.0.1>`
  def inspect(ref, _opts) do
    "##{Kernel.inspect(@for)}<#{text(ref.type_name || "object")}#{from(ref)}#{session(ref)}#{on(ref.id)}>"
  end

  defp from(%{python_module: nil}), do: ""
  defp from(%{python_module: module}), do: " in #{text(module)}"

  defp session(%{session_id: nil}), do: ""
  defp session(%{session_id: session_id}), do: ", #{text(session_id)}"

  # Anybody can make a ref with anything in it, and what is inspected must stay on one line.
  defp text(field) do
    if is_binary(field) and String.printable?(field) and
         not String.contains?(field, ["\n", "\r"]),
       do: field,
       else: Kernel.inspect(field, limit: 5, printable_limit: 100)
  end

  defp on(id) when is_reference(id), do: " on #{node(id)}"
  defp on(_id), do: ""
end
