/*
 * Two owners of one session on two nodes, and clients on others: who opens and joins a session,
 * gives it away, calls in it and releases it is known to the Python node in no certain order with
 * what becomes of the owners.
 */

#define NODES 2
#define ROOM 4
#define REFERENCES 3
#include "wire.pml"

#define REQUESTS 3  /* of all clients together */
#define LOSSES 1    /* how often a connection is lost: either, not both */

/* --- The registry. */

bool session;
byte opened;        /* which session of that name it is: 1, 2 and so on */
bool owns[NODES];   /* the owners of the session */
byte watch[NODES];  /* the reference of the monitor on each, 0 for none */

/* A session has owners and each is monitored; nobody else is, and nobody twice. */
inline check() {
    assert(session == (owns[0] || owns[1]));
    assert(owns[0] == (watch[0] != 0) && (!owns[0] || is_watched(watch[0])));
    assert(owns[1] == (watch[1] != 0) && (!owns[1] || is_watched(watch[1])));
    for (r : 1 .. REFERENCES) {
        assert(monitors[r] != ACTIVE || watch[on_node[r]] == r)
    }
    r = 0
}

inline join(who) {
    if
#ifdef BUG_MONITOR_TWICE
    :: true -> owns[who] = true; monitor(who, watch[who])
#else
    :: !owns[who] -> owns[who] = true; monitor(who, watch[who])
    :: else -> skip
#endif
    fi
}

inline part(who) {
    owns[who] = false;
#ifndef BUG_MONITOR_KEPT
    demonitor(watch[who]);
#endif
    watch[who] = 0;
    session = owns[0] || owns[1]
}

inline open(who) {
    if
    :: !session -> session = true; opened++
    :: else -> skip
    fi;
    join(who)
}

inline give(giver, receiver) {
    if
    :: session && owns[giver] ->
#ifdef BUG_RECEIVER_UNMONITORED
        owns[receiver] = true;
#else
        join(receiver);
#endif
        part(giver)
    :: else -> skip  /* an error: not_owner, or no such session */
    fi
}

inline release() {
    if
    :: owns[0] -> part(0)
    :: else -> skip
    fi;
    if
    :: owns[1] -> part(1)
    :: else -> skip
    fi
}

/* --- The Python node. */

/* The thread that reads from node n. */
proctype Reader(byte n) {
    byte number;

end:
    do
    :: atomic { python_up[n] && to_python[n]?[DOWN, _] ->
        to_python[n]?DOWN, number;
        if
        :: monitors[number] == ACTIVE -> monitors[number] = FIRED
        :: else -> skip
        fi;
        number = 0 }
    :: atomic { python_up[n] && !beam_up[n] -> python_loses(n) }
    od
}

proctype Report(byte number) {
    byte n;

end:
    atomic { has_fired(number) ->
        monitors[number] = OVER;
        n = on_node[number];
        if
#ifdef BUG_NO_CONFIRM
        :: owns[n] ->
#else
        :: owns[n] && watch[n] == number ->
#endif
            owns[n] = false;
            watch[n] = 0;
            session = owns[0] || owns[1]
        :: else -> skip
        fi;
        check() }
}

/*
 * The requests of clients. Each is one step of the registry, so that those which run at the same
 * time are the same as some order of them. What their owners do meanwhile comes in between.
 */
proctype Client() {
    byte requests;
    byte n;
    byte given;

    do
    :: atomic { requests < REQUESTS ->
        requests++;
        if
        :: n = 0
        :: n = 1
        fi };
        if
        /* open_session, by or for process n. It is reached first, and may be lost again then. */
        :: python_up[n] ->
            atomic { open(n); check() }
        /* give_session, to process n */
        :: python_up[n] ->
            atomic { give(1 - n, n); check() }
        /* release_session */
        :: n == 0 ->
            atomic { release(); check() }
        /* A call that makes an object. */
        :: n == 0 && session ->
            given = opened;
            /* The answer: by now the session may have ended, and there may be another. */
            atomic {
                assert(!(session && given == opened)
                    || (owns[0] && is_watched(watch[0])) || (owns[1] && is_watched(watch[1])));
                given = 0
            }
        /* It cannot be reached: an error. */
        :: !python_up[n] -> skip
        fi
    :: break
    od
}

/* --- The world around it. */

/* An owner, which may die, and the connection with its node. */
proctype Owner(byte n) {
    if
    :: atomic { die(n) }
    :: skip
    fi
}

byte losses;

proctype Network(byte n) {
    do
    :: atomic { losses < LOSSES -> losses++ };
        if
        :: atomic { python_loses(n) }
        :: atomic { beam_loses(n) }
        fi;
        atomic { !python_up[n] && !beam_up[n] };
        if
        :: atomic { python_up[n] = true; beam_up[n] = true }
        :: break
        fi
    :: break
    od
}

init {
    byte n;

    atomic {
        for (n : 0 .. NODES - 1) {
            run Beam(n);
            run Reader(n);
            run Owner(n);
            run Network(n)
        }
        for (r : 1 .. REFERENCES) {
            run Report(r)
        }
        r = 0;
        run Client()
    }
}

/* --- What is to be true in the end. */

#define unreachable(n) (!alive[n] || !connected(n))

ltl every_session_ends { <>[] (unreachable(0) && unreachable(1)) -> <>[] !session }
