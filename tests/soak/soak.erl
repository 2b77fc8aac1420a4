%% The load of the endurance tests: owners that come and go, a crowd that dies at once, and somebody
%% who measures how long calls take meanwhile. It runs on BEAM nodes; load.py drives it.
-module(soak).
-export([churn/3, crowd/2, probe/3]).

%% Run Count owners, Width of them at a time. Returns how many of them ended for which reason.
churn(Node, Count, Width) ->
    [start(Node, N) || N <- lists:seq(1, min(Count, Width))],
    churn(Node, Count, Width, 0, #{}).

churn(_Node, Count, _Width, Count, Ends) ->
    Ends;
churn(Node, Count, Width, Ended, Ends) ->
    receive
        {'DOWN', _, process, _, Reason} ->
            [start(Node, Ended + Width + 1) || Ended + Width < Count],
            churn(Node, Count, Width, Ended + 1,
                  maps:update_with(Reason, fun(N) -> N + 1 end, 1, Ends))
    end.

%% One owner ends in peace, the next is killed, and the third has not waited for its last answer.
start(Node, Number) ->
    spawn_monitor(fun() ->
        own(Node),
        case Number rem 3 of
            0 -> ok;
            1 -> exit(self(), kill);
            2 -> gen_server:send_request({snakebridge, Node}, few())
        end
    end).

%% Own a few objects: one that nothing was done with, one that was entered, a generator that has
%% begun.
own(Node) ->
    {ok, [_, Entered, Generator]} = call(Node, few()),
    {ok, _} = call(Node, {method, Entered, <<"__enter__">>, [], #{}}),
    {ok, [0], more} = call(Node, {next, Generator, 1}).

few() ->
    {call, <<"tests.soak.objects">>, <<"few">>, [], #{}}.

call(Node, Request) ->
    gen_server:call({snakebridge, Node}, Request, infinity).

%% Make Count owners. Returns the process that all of them are linked to, when each has its objects.
crowd(Node, Count) ->
    Caller = self(),
    Keeper = spawn(fun() ->
        Keeper = self(),
        Owners = [spawn_link(fun() ->
            own(Node),
            Keeper ! {ready, self()},
            timer:sleep(infinity)
        end) || _ <- lists:seq(1, Count)],
        [receive {ready, Owner} -> ok end || Owner <- Owners],
        Caller ! {ready, self()},
        timer:sleep(infinity)
    end),
    receive {ready, Keeper} -> Keeper end.

%% Call a method of one object Count times, or until a message `stop` comes: one call is due in each
%% Interval of so many microseconds. Returns when each was due, and how long it took: of one that
%% has to wait for the one before it, from when it was due.
probe(Node, Interval, Count) ->
    {ok, Ref} = call(Node, {call, <<"builtins">>, <<"object">>, [], #{}}),
    probe(Node, Interval, Count, {method, Ref, <<"__sizeof__">>, [], #{}}, now_us(), []).

probe(_Node, _Interval, 0, _Request, _Due, Samples) ->
    Samples;
probe(Node, Interval, Count, Request, Due, Samples) ->
    Early = Due - now_us(),
    receive
        stop -> Samples
    after max(0, Early div 1000) ->
        Start = if Early > 0 -> now_us(); true -> Due end,
        {ok, _} = call(Node, Request),
        Sample = {Due, now_us() - Start},
        Left = if is_integer(Count) -> Count - 1; true -> Count end,
        probe(Node, Interval, Left, Request, Due + Interval, [Sample | Samples])
    end.

now_us() ->
    os:system_time(microsecond).
