%% Prints the vectors of test_etf_vectors.py, as this OTP's term_to_binary makes them:
%%
%%     erlc make_vectors.erl
%%     erl -noinput -s make_vectors main -s init stop > vectors-otp25.txt
%%
%% Compiled once, with the oldest OTP, it runs on every newer one. A line is a name, the way it
%% was made, and the bytes in hexadecimal. The ways are
%%
%%   utf8        term_to_binary(Term, [{minor_version, 2}]): what we must make, too
%%   default     term_to_binary(Term), where that differs (atoms in Latin-1 before OTP 26)
%%   compressed  the option `compressed`, where that differs
%%   old_float   the option {minor_version, 0}, where that differs
%%   echo        as utf8, of a term that is another one at each run
-module(make_vectors).
-export([main/0]).

main() ->
    Otp = filename:join([code:root_dir(), "releases", erlang:system_info(otp_release),
                         "OTP_VERSION"]),
    {ok, Version} = file:read_file(Otp),
    io:format("# term_to_binary of OTP ~ts# by make_vectors.erl~n", [Version]),
    lists:foreach(fun print/1, terms()),
    lists:foreach(fun({Name, Term}) -> line(Name, echo, utf8(Term)) end, echoes()).

print({Name, Term}) ->
    Utf8 = utf8(Term),
    line(Name, utf8, Utf8),
    Others = [{default, term_to_binary(Term)},
              {compressed, term_to_binary(Term, [compressed, {minor_version, 2}])},
              {old_float, term_to_binary(Term, [{minor_version, 0}])}],
    [line(Name, Way, Bytes) || {Way, Bytes} <- Others, Bytes =/= Utf8].

utf8(Term) -> term_to_binary(Term, [{minor_version, 2}]).

line(Name, Way, Bytes) ->
    io:format("~s ~s ~s~n", [Name, Way, [io_lib:format("~2.16.0b", [B]) || <<B>> <= Bytes]]).

terms() ->
    [{zero, 0}, {byte, 255}, {above_byte, 256}, {minus_one, -1},
     {max_int32, 16#7fffffff}, {min_int32, -16#80000000},
     {above_int32, 16#80000000}, {below_int32, -16#80000001},
     {max_small, (1 bsl 59) - 1}, {min_small, -(1 bsl 59)},
     {above_small, 1 bsl 59}, {uint64, (1 bsl 64) - 1}, {minus_uint64, 1 - (1 bsl 64)},
     {max_small_big, (1 bsl 2040) - 1}, {large_big, 1 bsl 2040}, {minus_large_big, -(1 bsl 2040)},
     {float, 1.5}, {minus_float, -1.0e-300}, {zero_float, 0.0}, {tenth, 0.1},
     {max_float, 1.7976931348623157e308}, {min_float, 5.0e-324},
     {nil_atom, nil}, {true, true}, {false, false}, {empty_atom, ''}, {atom, hello},
     {latin1_atom, list_to_atom([233])}, {utf8_atom, list_to_atom([16#20ac])},
     {atom_255, list_to_atom(lists:duplicate(255, $a))},
     {atom_127_of_2_bytes, list_to_atom(lists:duplicate(127, 16#e9))},
     {atom_128_of_2_bytes, list_to_atom(lists:duplicate(128, 16#e9))},
     {atom_255_of_4_bytes, list_to_atom(lists:duplicate(255, 16#1f600))},
     {empty_binary, <<>>}, {text, <<"text">>}, {utf8_text, <<"h\303\251llo \360\237\230\200">>},
     {latin1_text, <<"h\351llo">>}, {surrogate_text, <<16#ed, 16#a0, 16#80>>},
     {binary_255, binary:copy(<<"a">>, 255)}, {binary_256, binary:copy(<<"a">>, 256)},
     {bits_1, <<1:1>>}, {bits_7, <<127:7>>}, {bits_13, <<5000:13>>},
     {empty_list, []}, {charlist, "abc"}, {charlist_300, lists:duplicate(300, $a)},
     {list_with_256, [1, 256]}, {list_of_atoms, [a, b]},
     {integers, lists:seq(-20, 300)}, {large_integers, lists:seq(256, 290)},
     {integers_and_bigs, [1 bsl N || N <- lists:seq(0, 70)]},
     {floats, [N / 4 || N <- lists:seq(1, 40)]},
     {nested_list, [[], [[]], [1, [2]]]},
     {improper, [a | b]}, {improper_bytes, [1, 2 | 3]}, {call_tag, [alias | reference(3)]},
     {empty_tuple, {}}, {pair, {a, 1}}, {tuple_255, erlang:make_tuple(255, x)},
     {tuple_256, erlang:make_tuple(256, x)},
     {empty_map, #{}}, {map, #{a => 1, b => [2]}}, {mixed_keys, #{1 => a, 1.0 => b, true => c}},
     {atom_and_binary_key, #{a => 1, <<"a">> => 2}},
     {list_key, #{[1] => list, #{} => map, {1, []} => tuple}},
     {map_32, maps:from_list([{N, N * N} || N <- lists:seq(1, 32)])},
     {map_100, maps:from_list([{N, <<"v">>} || N <- lists:seq(1, 100)])},
     {struct, #{'__struct__' => 'Elixir.Range', first => 1, last => 3, step => 1}},
     {pid, pid()}, {port, port()}, {small_port, old_port()},
     {reference_1, reference(1)}, {reference_2, reference(2)}, {reference_3, reference(3)},
     {reference_4, reference(4)}, {reference_5, reference(5)},
     {old_pid, binary_to_term(<<131, 103, 119, 3, "a@b", 7:32, 8:32, 3>>)},
     {old_reference, binary_to_term(<<131, 114, 3:16, 119, 3, "a@b", 3, 1:32, 2:32, 3:32>>)},
     {external_fun, fun lists:map/2}, {nil_fun, fun nil:'\351'/255}].

%% Of another node, so that they do not depend on this one.
pid() -> binary_to_term(<<131, 88, 119, 3, "a@b", 16#ffffffff:32, 8:32, 16#deadbeef:32>>).
port() -> binary_to_term(<<131, 120, 119, 3, "a@b", 16#ffffffffffffffff:64, 16#deadbeef:32>>).
old_port() -> binary_to_term(<<131, 102, 119, 3, "a@b", 7:32, 3>>).
reference(Words) ->
    Ids = << <<N:32>> || N <- lists:seq(1, Words) >>,
    binary_to_term(<<131, 90, Words:16, 119, 3, "a@b", 16#deadbeef:32, Ids/binary>>).

echoes() ->
    Free = {free, [1, 2.0], self()},
    Inner = fun(X) -> {X, Free} end,
    [{self, self()}, {make_ref, make_ref()}, {alias, alias()},
     {open_port, open_port({spawn, "cat"}, [])},
     {local_fun, fun() -> ok end}, {closure, Inner}, {closure_of_closure, fun(Y) -> Inner(Y) end}].
