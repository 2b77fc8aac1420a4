/*
 * The grace period: a node is lost with an owner on it, and comes back in time or too late, as it
 * was or started anew, with the owner alive or dead.
 */

#define NODES 1
#define ROOM 6
#define REFERENCES 6
#include "wire.pml"

#define LOSSES 2

#define OWNERS 1             /* the incarnation that the owner is a process of */
byte incarnation = OWNERS;   /* of the node at this moment */
byte connected_to = OWNERS;  /* what the Python node has last shaken hands with */

/* --- The registry. */

bool session;
byte watch;   /* the reference of the monitor on the owner, 0 for none */
bool absent;  /* its node is lost, and it is not monitored */

/* Who owns a session is monitored or absent; nobody else is. */
inline check() {
    assert(session == (watch != 0 || absent));
    assert(watch == 0 || is_watched(watch) && !absent);
    for (r : 1 .. REFERENCES) {
        assert(monitors[r] != ACTIVE || r == watch)
    }
    r = 0
}

inline open() {
    if
    :: !session -> session = true; monitor(0, watch)
    :: else -> skip  /* also if its owner is absent */
    fi
}

inline release() {
    if
    :: watch != 0 -> demonitor(watch); watch = 0
    :: else -> skip
    fi;
#ifndef BUG_ABSENCE_KEPT
    absent = false;
#endif
    session = false
}

inline node_up(creation) {
    if
    :: absent && creation == OWNERS ->
        absent = false;
#ifndef BUG_ADOPT_UNMONITORED
        monitor(0, watch)
#endif
    :: absent && creation != OWNERS ->
#ifdef BUG_ADOPT_OTHER_INCARNATION
        absent = false;
        monitor(0, watch);
#else
        absent = false;
        session = false;
#endif
        assert(!session)  /* nobody of another incarnation is taken for the owner */
    :: else -> skip
    fi
}

/* --- The Python node. */

active proctype Reader() {
    byte number;

end:
    do
    :: atomic { python_up[0] && to_python[0]?[DOWN, _] ->
        to_python[0]?DOWN, number;
        if
        :: monitors[number] == ACTIVE -> monitors[number] = FIRED
        :: else -> skip
        fi;
        number = 0 }
    :: atomic { python_up[0] && !beam_up[0] -> python_loses(0) }
    od
}

/* What is told that the node is there looks which incarnation it is, and then for its owners. */
inline look() {
    creation = connected_to;
    atomic { node_up(creation); check() }
}

proctype Report(byte number) {
    byte creation;

end:
    atomic { has_fired(number) ->
        if
        :: number == watch && monitors[number] == LOST -> watch = 0; absent = true
        :: number == watch && monitors[number] == FIRED -> watch = 0; session = false
        :: else -> skip  /* late */
        fi;
        monitors[number] = OVER;
        check() };
#ifndef BUG_NO_SECOND_LOOK
    /* The node may have been back before this, and its absent owners looked for too early. */
    if
    :: python_up[0] -> look()
    :: !python_up[0] -> skip
    fi
#endif
}

chan ups = [LOSSES] of { bit };

active proctype NodeUp() {
    byte creation;

end:
    do
    :: ups?_ -> look()
    od
}

/* The end of the grace period: certain if the node stays away, else at any moment or never. */
inline end_of_grace() {
    absent = false;
    session = false;
    check()
}

active proctype Grace() {
end:
    do
#ifdef BUG_NO_END_OF_GRACE
    :: false -> skip
#else
    :: atomic { absent && !python_up[0] && !beam_up[0] -> end_of_grace() }
#endif
    od
}

active proctype EarlyGrace() {
end:
    if
    :: atomic { absent -> end_of_grace() }
    :: skip
    fi
}

/* Somebody opens the session, calls in it, and releases it. */
active proctype Client() {
    bit released;

    if
    :: python_up[0] -> atomic { open(); check() }
    :: !python_up[0] -> skip
    fi;
    do
    :: atomic { released == 0 -> released = 1; release(); check() }
    :: atomic { session -> assert(is_watched(watch) || absent) ; break }  /* a ref is sent */
    :: break
    od
}

/* --- The world around it. */

active proctype Owner() {
    if
    :: atomic { die(0) }
    :: skip
    fi
}

active proctype Network() {
    byte losses;

    do
    :: losses < LOSSES ->
        losses++;
        if
        :: atomic { python_loses(0) }
        :: atomic { beam_loses(0) }
        :: atomic { beam_loses(0); alive[0] = false; incarnation++ }  /* it is started anew */
        fi;
        atomic { !python_up[0] && !beam_up[0] };
        if
        :: atomic {
            python_up[0] = true;
            beam_up[0] = true;
            connected_to = incarnation;
            ups!1 }
        :: break
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

ltl every_session_ends { <>[] unreachable -> <>[] !session }

/* An owner that is there is not left for absent. */
ltl every_owner_is_found { <>[] !unreachable -> <>[] !absent }
