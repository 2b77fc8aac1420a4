/*
 * A process calls, is given refs, gives them back, and dies: at any moment of it.
 * See README.md, which explains this file from its first line to its last.
 */

#define NODES 1
#define ROOM 8
#define REFERENCES 5
#include "wire.pml"

#define CALLS 3     /* how often the process calls */
#define LOSSES 2    /* how often the connection is lost */

/* --- The registry: pynode/objects/registry.py. */

bool session;  /* whether the process has its implicit session */
byte watch;    /* the reference of the monitor on it, 0 for none */
byte refs;

/* No ref without a session, no session without a monitored owner, no monitor without a session. */
inline check() {
    assert(session || refs == 0);
    assert(session == (watch != 0));
    assert(!session || is_watched(watch));
    for (r : 1 .. REFERENCES) {
        assert(monitors[r] != ACTIVE || r == watch)
    }
    r = 0
}

/* --- The Python node. */

chan calls = [CALLS] of { bit };

/* The thread that reads. */
active proctype Reader() {
    byte number;

end:
    do
    :: atomic { python_up[0] && to_python[0]?[REQUEST, _] ->
        to_python[0]?REQUEST, _;
        calls!1 }
    :: atomic { python_up[0] && to_python[0]?[RELEASE, _] ->
        to_python[0]?RELEASE, _;
        if
        :: session -> session = false; refs = 0; demonitor(watch); watch = 0
        :: else -> skip
        fi;
        check() }
    :: atomic { python_up[0] && to_python[0]?[DOWN, _] ->
        to_python[0]?DOWN, number;
        if
        :: monitors[number] == ACTIVE -> monitors[number] = FIRED
        :: else -> skip  /* taken back, or over with its connection */
        fi;
        number = 0 }
    :: atomic { python_up[0] && !beam_up[0] -> python_loses(0) }
    od
}

/* The lane of the session: one call after the other. */
active proctype Lane() {
    byte given;  /* the monitor that keeps the session with our ref */

end:
    do
    :: calls?_ ->
        /* The function runs. It has returned what must become a ref: open a session for that. */
        atomic {
            if
            :: !session ->
                session = true;
#ifdef BUG_MONITOR_AFTER_REPLY
                last_reference++;
                watch = last_reference;
#else
                monitor(0, watch);
                check()
#endif
            :: else -> skip
            fi;
            given = watch
        }
        /* Put the object into it, if that has not ended meanwhile. */
        atomic {
            if
            :: session && watch == given -> refs++
            :: else -> given = 0
            fi
        }
        /* The answer: a ref, or an error. A ref that has gone meanwhile does no harm. */
        atomic {
            assert(given == 0 || watch != given || is_watched(given));
            send_to_beam(0, REPLY, given)
        }
#ifdef BUG_MONITOR_AFTER_REPLY
        atomic {
            if
            :: watch != 0 && monitors[watch] == UNUSED -> last_reference--; monitor(0, watch)
            :: else -> skip
            fi
        }
#endif
        given = 0
    od
}

/* A monitor that has fired is reported to the registry by whichever thread, at any time. */
proctype Report(byte number) {
end:
    atomic { has_fired(number) ->
        monitors[number] = OVER;
#ifdef BUG_NO_CONFIRM
        session = false; refs = 0; watch = 0;
#else
        if
        :: number == watch -> session = false; refs = 0; watch = 0
        :: else -> skip  /* late: that monitor was taken back */
        fi;
#endif
        check() }
}

/* --- The world around it. */

active proctype Caller() {
    byte called;
    bool released;

    do
    :: atomic { called < CALLS -> called++; send_to_python(0, REQUEST, 0) }
    :: atomic { !released -> released = true; send_to_python(0, RELEASE, 0) }
    :: atomic { die(0); break }
    :: break  /* and it lives for ever */
    od
}

active proctype Network() {
    byte losses;

    do
    :: losses < LOSSES ->
        losses++;
        if  /* one side sees it first */
        :: atomic { python_loses(0) }
        :: atomic { beam_loses(0) }
        fi;
        atomic { !python_up[0] && !beam_up[0] };
        if
        :: atomic { python_up[0] = true; beam_up[0] = true }
        :: break  /* for good */
        fi
    :: break
    od
}

init {
    atomic {
        run Beam(0);
        for (r : 1 .. REFERENCES) {
            run Report(r)
        }
        r = 0
    }
}

/* --- What is to be true in the end. */

#define unreachable (!alive[0] || !connected(0))
#define nothing (!session && refs == 0 && watch == 0)

ltl every_session_ends { <>[] unreachable -> <>[] nothing }
