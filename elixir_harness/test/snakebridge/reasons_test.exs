defmodule SnakeBridge.ReasonsTest do
  # The errors about refs and sessions: each with each reason that it can have, all its fields, and
  # both returned and raised.
  use SnakeBridge.Case

  alias SnakeBridge.{
    InvalidRefError,
    NodeUnavailableError,
    PythonNode,
    RefNotFoundError,
    SessionContext,
    SessionManager,
    SessionMismatchError,
    SessionNotFoundError
  }

  @moduletag timeout: 60_000

  defp counter(opts \\ []), do: SnakeBridge.call!("collections", "Counter", [], opts)

  describe "RefNotFoundError" do
    test "released" do
      ref = counter()
      assert SnakeBridge.release_ref(ref) == {:ok, 1}
      assert gone(ref, :released) =~ "it was released"
    end

    test "session_released" do
      ref = counter()
      assert SnakeBridge.release_session(ref.session_id) == {:ok, 1}
      assert gone(ref, :session_released) =~ "its session was released"
    end

    test "owner_down" do
      {pid, ref} = owner(&counter/0)
      kill(pid)
      assert gone(ref, :owner_down) =~ "the last owner of its session is gone"
    end

    test "expired" do
      {:ok, context} = SessionContext.open(ttl_seconds: 1)
      ref = SessionContext.with_session(context, &counter/0)
      eventually(fn -> SessionManager.list_refs(context.session_id) == [] end)
      assert gone(ref, :expired) =~ "ttl_seconds"
    end

    test "evicted" do
      {:ok, context} = SessionContext.open(max_refs: 1)
      [ref, _last] = SessionContext.with_session(context, fn -> [counter(), counter()] end)
      assert gone(ref, :evicted) =~ "max_refs"
    end

    test "node_restarted" do
      {:ok, python} = start_python([])
      ref = counter(node: PythonNode.node(python))
      crash(python)
      assert gone(ref, :node_restarted) =~ "the Python node has restarted"
    end

    test "unknown" do
      ref = counter()
      forged = %{ref | id: other_reference(ref.id)}
      assert gone(forged, :unknown) =~ "this node never made it"
      assert SnakeBridge.release_ref(forged) == {:ok, 0}
    end

    # Every way to use the ref says so. Returns the message.
    defp gone(ref, reason) do
      node = node(ref.id)
      eventually(fn -> match?({:error, _gone}, SnakeBridge.attr(ref, "__class__")) end)

      errors =
        for result <- [
              SnakeBridge.attr(ref, "__class__"),
              SnakeBridge.set_attr(ref, "a", 1),
              SnakeBridge.method(ref, "total"),
              SnakeBridge.next(ref, 1),
              SnakeBridge.call("builtins", "len", [ref], node: node),
              SnakeBridge.call("builtins", "len", [[%{"in" => {ref}}]], node: node)
            ] do
          assert {:error, %RefNotFoundError{ref_id: id, session_id: session} = error} = result
          assert {id, session, error.reason} == {ref.id, ref.session_id, reason}
          error
        end

      for call <- [
            fn -> SnakeBridge.attr!(ref, "__class__") end,
            fn -> SnakeBridge.set_attr!(ref, "a", 1) end,
            fn -> SnakeBridge.method!(ref, "total") end,
            fn -> SnakeBridge.call!("builtins", "len", [ref], node: node) end,
            fn -> ref |> SnakeBridge.stream() |> Enum.to_list() end
          ] do
        error = assert_raise RefNotFoundError, call
        assert error in errors
      end

      assert [message] = errors |> Enum.map(&Exception.message/1) |> Enum.uniq()
      sentence(message)
    end
  end

  describe "SessionNotFoundError" do
    test "session_released" do
      {:ok, context} = SessionContext.open()
      SnakeBridge.release_session(context.session_id)
      assert ended(context, :session_released) =~ "was released"
    end

    test "owner_down" do
      {pid, {:ok, context}} = owner(&SessionContext.open/0)
      kill(pid)
      eventually(fn -> not SessionManager.session_exists?(context.session_id) end)
      assert ended(context, :owner_down) =~ "ended with its last owner"
    end

    test "node_restarted" do
      {:ok, python} = start_python([])
      {:ok, context} = SessionContext.open(node: PythonNode.node(python))
      crash(python)
      assert ended(context, :node_restarted) =~ "ended when the Python node was restarted"
    end

    test "unknown" do
      assert ended(SessionContext.create(), :unknown) =~ "is not open on this node"
    end

    defp ended(%{session_id: id} = context, reason) do
      error =
        SessionContext.with_session(context, fn ->
          assert {:error, error} = SnakeBridge.call("math", "sqrt", [16])
          assert {:error, ^error} = SnakeBridge.get("math", "pi")
          assert {:error, ^error} = SnakeBridge.put(1)
          assert ^error = assert_raise(SessionNotFoundError, fn -> SnakeBridge.put!(1) end)
          error
        end)

      assert %SessionNotFoundError{session_id: ^id, reason: ^reason} = error
      sentence(Exception.message(error))
    end
  end

  test "SessionMismatchError" do
    %{session_id: own} = ref = counter()

    SessionContext.with_session([session_id: unique("other")], fn ->
      other = SnakeBridge.current_session()
      assert {:error, %SessionMismatchError{} = error} = SnakeBridge.method(ref, "total")
      assert %{expected_session: ^own, actual_session: ^other} = error
      assert error.ref_id == ref.id
      call = fn -> SnakeBridge.method!(ref, "total") end
      assert assert_raise(SessionMismatchError, call) == error
      # It is found before anything is sent, and says the same.
      assert {:error, ^error} = SessionManager.register_ref(other, ref)
      sentence(Exception.message(error))
    end)
  end

  test "InvalidRefError" do
    {:ok, python} = start_python([])
    elsewhere = counter(node: PythonNode.node(python))

    for {reason, call, call!} <- [
          {:not_a_ref, fn -> SnakeBridge.attr("ref", "a") end,
           fn -> SnakeBridge.attr!("ref", "a") end},
          {:not_an_iterator, fn -> SnakeBridge.next(counter(), 1) end,
           fn -> Enum.to_list(%SnakeBridge.StreamRef{id: counter().id}) end},
          {:other_node, fn -> SnakeBridge.call("builtins", "len", [elsewhere]) end,
           fn -> SnakeBridge.call!("builtins", "len", [elsewhere]) end}
        ] do
      assert {:error, %InvalidRefError{reason: ^reason} = error} = call.()
      assert assert_raise(InvalidRefError, call!) == error
      sentence(Exception.message(error))
    end
  end

  test "NodeUnavailableError of an owner's node" do
    {peer, node} = start_peer()
    owner = :peer.call(peer, Process, :whereis, [:init])
    :peer.stop(peer)

    assert {:error, %NodeUnavailableError{reason: :owner_unreachable} = error} =
             SessionContext.open(owner_pid: owner)

    assert error.node == node
    assert sentence(Exception.message(error)) =~ "cannot own a session"
  end

  # What happened, and after a colon or a comma what to do next.
  defp sentence(message) do
    assert message =~ ~r/^[^\n]{10,}[:,] [^\n]{10,}\.$/
    message
  end

  # A reference that the same node might have made, but has not.
  defp other_reference(reference) do
    binary = :erlang.term_to_binary(reference)
    # NEWER_REFERENCE_EXT ends with the words of the reference.
    :erlang.binary_to_term(binary_part(binary, 0, byte_size(binary) - 4) <> <<7::32>>)
  end
end
