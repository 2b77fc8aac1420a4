%% The ends of the measurements that run on BEAM nodes: the peer that everything is compared with, a
%% GenServer on a second node, and the callers on the first. contenders.py drives them.
-module(bench).
-behaviour(gen_server).
-export([start_peer/0, init/1, handle_call/3, handle_cast/2]).
-export([start_port/3, start_socket/1]).
-export([sample/4, rate/4, method/2, beside/5, stream/3, hold/3]).

%% --- The peer

start_peer() ->
    {ok, _} = gen_server:start({local, snakebridge}, ?MODULE, [], []),
    ok.

init([]) -> {ok, none}.

handle_call({call, <<"math">>, <<"sqrt">>, [X], _}, _From, State) ->
    {reply, {ok, math:sqrt(X)}, State};
handle_call({call, _, <<"echo">>, [X], _}, _From, State) ->
    {reply, {ok, X}, State}.

handle_cast(_, State) -> {noreply, State}.

%% --- Packets: a request is a tag that comes back with the reply, and the term

%% Start a program as a port, for all callers of this node. Returns the target and the process id.
start_port(Program, Args, Folder) ->
    Target = {port, _} = own(port, fun() ->
        Environment = {env, [{"PYTHONPATH", Folder}]},
        open_port({spawn_executable, Program}, [{args, Args}, {packet, 4}, binary, Environment])
    end),
    {port, Port} = Target,
    {os_pid, Id} = erlang:port_info(Port, os_pid),
    {Target, Id}.

start_socket(Number) ->
    own(socket, fun() ->
        Options = [binary, {packet, 4}, {nodelay, true}, {active, true}],
        {ok, Socket} = gen_tcp:connect({127, 0, 0, 1}, Number, Options),
        Socket
    end).

own(Kind, Open) ->
    Caller = self(),
    spawn(fun() ->
        Channel = Open(),
        Caller ! {opened, self(), {Kind, Channel}},
        hand_out(Channel)
    end),
    receive {opened, _, Target} -> Target end.

hand_out(Channel) ->
    receive
        {Channel, {data, Packet}} -> hand_out_one(Packet);
        {tcp, Channel, Packet} -> hand_out_one(Packet)
    end,
    hand_out(Channel).

hand_out_one(<<Size:16, Tag:Size/binary, Reply/binary>>) ->
    {Caller, Ref} = binary_to_term(Tag),
    Caller ! {Ref, Reply}.

%% --- The callers. A target is {gen_server, Node}, {elixir, Node}, {port, Port}, {socket, Socket}.

call({gen_server, Node}, Request) ->
    gen_server:call({snakebridge, Node}, Request, infinity);
call({elixir, _Node}, {call, Module, Function, Args, _}) ->
    'Elixir.SnakeBridge':call(Module, Function, Args);
call({elixir, _Node}, {method, Ref, Name, Args, _}) ->
    'Elixir.SnakeBridge':method(Ref, Name, Args);
call({Kind, Channel}, Request) ->
    Ref = make_ref(),
    Tag = term_to_binary({self(), Ref}),
    send(Kind, Channel, [<<(byte_size(Tag)):16>>, Tag | term_to_iovec(Request)]),
    receive {Ref, Reply} -> binary_to_term(Reply) end.

send(port, Port, Packet) -> true = port_command(Port, Packet);
send(socket, Socket, Packet) -> ok = gen_tcp:send(Socket, Packet).

request(sqrt) -> {call, <<"math">>, <<"sqrt">>, [16], #{}};
request(What) -> ours(<<"echo">>, [payload(What)]).

ours(Function, Args) -> {call, <<"benchmarks.targets">>, Function, Args, #{}}.

payload(integers) -> lists:seq(0, 9_999);
payload({text, Size}) -> binary:copy(<<"x">>, Size);
payload({bytes, Size}) -> binary:copy(<<200>>, Size);
payload(maps) ->
    maps:from_list([
        {integer_to_binary(N), #{<<"id">> => N, <<"name">> => <<"somebody">>, <<"active">> => true}}
        || N <- lists:seq(1, 100)
    ]).

%% Call until the time is up, at least so often. Returns {Median, P99} in microseconds.
sample(Target, What, Milliseconds, AtLeast) ->
    Request = request(What),
    {ok, _} = checked(Target, Request),
    erlang:garbage_collect(),
    spread(collect(Target, Request, deadline(Milliseconds), AtLeast, [])).

collect(Target, Request, Deadline, AtLeast, Samples) ->
    New = [time(Target, Request) | Samples],
    case AtLeast > 1 orelse erlang:monotonic_time() < Deadline of
        true -> collect(Target, Request, Deadline, AtLeast - 1, New);
        false -> New
    end.

time(Target, Request) ->
    Start = erlang:monotonic_time(),
    _ = call(Target, Request),
    erlang:monotonic_time() - Start.

%% Those that echo bytes know nothing of ok.
checked({socket, _} = Target, Request) -> Request = call(Target, Request), {ok, none};
checked(Target, Request) -> {ok, _} = call(Target, Request).

spread(Samples) ->
    Sorted = lists:sort(Samples),
    Count = length(Sorted),
    {in_us(lists:nth(Count div 2 + 1, Sorted)), in_us(lists:nth(Count * 99 div 100 + 1, Sorted))}.

in_us(Native) -> erlang:convert_time_unit(Native, native, nanosecond) / 1000.

deadline(Milliseconds) ->
    erlang:monotonic_time() + erlang:convert_time_unit(Milliseconds, millisecond, native).

%% Call from many processes until the time is up. Returns {Calls, Microseconds}.
rate(Target, What, Callers, Milliseconds) ->
    Self = self(),
    Request = request(What),
    {ok, _} = checked(Target, Request),
    Start = erlang:monotonic_time(),
    Deadline = deadline(Milliseconds),
    Pids = [spawn_link(fun() -> Self ! {self(), repeat(Target, Request, Deadline, 0)} end)
            || _ <- lists:seq(1, Callers)],
    Calls = lists:sum([receive {Pid, Count} -> Count end || Pid <- Pids]),
    {Calls, in_us(erlang:monotonic_time() - Start)}.

repeat(Target, Request, Deadline, Count) ->
    _ = call(Target, Request),
    case erlang:monotonic_time() < Deadline of
        true -> repeat(Target, Request, Deadline, Count + 1);
        false -> Count + 1
    end.

%% Returns the medians of the sqrt call, and of a method whose result is a new ref, in alternation.
method(Target, Milliseconds) ->
    {ok, Ref} = call(Target, ours(<<"Thing">>, [])),
    Method = {method, Ref, <<"child">>, [], #{}},
    {ok, _} = call(Target, Method),
    Pairs = alternate(Target, request(sqrt), Method, deadline(Milliseconds), []),
    {Plain, Methods} = lists:unzip(Pairs),
    {element(1, spread(Plain)), element(1, spread(Methods))}.

alternate(Target, One, Other, Deadline, Pairs) ->
    New = [{time(Target, One), time(Target, Other)} | Pairs],
    case erlang:monotonic_time() < Deadline of
        true -> alternate(Target, One, Other, Deadline, New);
        false -> New
    end.

%% Sample the sqrt call, first alone and then beside so many processes whose call takes longer.
beside(Target, Function, Argument, Number, Milliseconds) ->
    Idle = sample(Target, sqrt, Milliseconds, 1),
    Request = ours(Function, [Argument]),
    Busy = [spawn_monitor(fun() -> {ok, _} = call(Target, Request) end)
            || _ <- lists:seq(1, Number)],
    timer:sleep(100),
    Beside = sample(Target, sqrt, Milliseconds, 1),
    Busy = [Each || {Pid, Monitor} = Each <- Busy, is_process_alive(Pid), is_reference(Monitor)],
    [receive {'DOWN', Monitor, _, _, normal} -> ok end || {_, Monitor} <- Busy],
    {Idle, Beside}.

%% Fetch Count integers of an iterator. Returns microseconds.
stream({elixir, _} = Target, Count, _Batch) ->
    {ok, Ref} = call(Target, ours(<<"numbers">>, [Count])),
    Stream = 'Elixir.SnakeBridge':stream(Ref),
    {Time, Count} = timer:tc(fun() -> 'Elixir.Enum':count(Stream) end),
    Time;
stream({gen_server, Node} = Target, Count, Batch) ->
    {ok, Ref} = call(Target, ours(<<"numbers">>, [Count])),
    Fetch = fun Fetch(Sum) ->
        {ok, Items, State} = gen_server:call({snakebridge, Node}, {next, Ref, Batch}, infinity),
        case State of
            more -> Fetch(Sum + length(Items));
            done -> Sum + length(Items)
        end
    end,
    {Time, Count} = timer:tc(fun() -> Fetch(0) end),
    Time.

%% Hold refs of the things from First on, in a session without a limit that this process owns.
hold({gen_server, Node}, First, Count) ->
    Server = {snakebridge, Node},
    ok = gen_server:call(Server, {open_session, <<"held">>, self(), #{max_refs => 0}}),
    [begin
         Args = [Start, min(Start + 1_000, First + Count)],
         Take = {call, <<"benchmarks.targets">>, <<"take">>, Args, #{}, #{session_id => <<"held">>}},
         {ok, [_ | _]} = gen_server:call(Server, Take, infinity)
     end || Start <- lists:seq(First, First + Count - 1, 1_000)],
    ok.
