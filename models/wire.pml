/*
 * What the models share: connections, monitors, and the nodes of the owners.
 *
 * There are NODES nodes of the BEAM, 0, 1 and so on, each with one process that may be an owner and
 * goes by the number of its node. A reference of a monitor is a number from 1 to REFERENCES. What is
 * in `atomic` happens in one step, and between any two steps anything else may happen.
 */

mtype = { REQUEST, RELEASE, REPLY, MONITOR, DEMONITOR, DOWN };  /* what is sent */
mtype = { UNUSED, ACTIVE, FIRED, LOST, OVER };                  /* what becomes of a monitor */

/* --- The connections: what one side has sent arrives in that order, or not at all. */

chan to_python[NODES] = [ROOM] of { mtype, byte };
chan to_beam[NODES] = [ROOM] of { mtype, byte };
bool python_up[NODES] = true;  /* whether the Python node takes it for connected */
bool beam_up[NODES] = true;    /* whether the other node does */

#define connected(node) (python_up[node] && beam_up[node])

inline send_to_beam(node, what, number) {
    if
    :: connected(node) -> assert(nfull(to_beam[node])); to_beam[node]!what, number
    :: else -> skip  /* it goes down with the connection */
    fi
}

inline send_to_python(node, what, number) {
    if
    :: connected(node) -> assert(nfull(to_python[node])); to_python[node]!what, number
    :: else -> skip
    fi
}

/* --- Monitors, as the Python node has them: pynode/signals.py. */

mtype monitors[REFERENCES + 1] = UNUSED;
byte on_node[REFERENCES + 1];    /* which process is monitored */
byte last_reference;
byte r;                          /* for loops; always 0 between two steps */

/* There, or on its way to be reported. */
#define is_watched(reference) (monitors[reference] != UNUSED && monitors[reference] != OVER)
#define has_fired(reference) (monitors[reference] == FIRED || monitors[reference] == LOST)

inline monitor(node, reference) {
    assert(last_reference < REFERENCES);
    last_reference++;
    reference = last_reference;
    on_node[reference] = node;
    if
    :: python_up[node] -> monitors[reference] = ACTIVE; send_to_beam(node, MONITOR, reference)
    :: else ->
#ifdef BUG_NO_NOCONNECTION
        monitors[reference] = OVER
#else
        monitors[reference] = LOST  /* noconnection, at once */
#endif
    fi
}

inline demonitor(reference) {
    if
    :: monitors[reference] == ACTIVE ->
        monitors[reference] = OVER;
        send_to_beam(on_node[reference], DEMONITOR, reference)
    :: else -> skip  /* too late: it has fired, and that will be reported */
    fi
}

inline python_loses(node) {
    python_up[node] = false;
    do
    :: to_python[node]?_, _
    :: empty(to_python[node]) -> break
    od;
    for (r : 1 .. REFERENCES) {
        if
        :: monitors[r] == ACTIVE && on_node[r] == node ->
#ifdef BUG_NO_NOCONNECTION
            monitors[r] = OVER
#else
            monitors[r] = LOST
#endif
        :: else -> skip
        fi
    }
    r = 0
}

/* --- The node of an owner. */

bool alive[NODES] = true;
bool watched[REFERENCES + 1];  /* the monitors that it knows of */

inline beam_loses(node) {
    beam_up[node] = false;
    do
    :: to_beam[node]?_, _
    :: empty(to_beam[node]) -> break
    od;
    for (r : 1 .. REFERENCES) {
        watched[r] = watched[r] && on_node[r] != node
    }
    r = 0
}

inline die(node) {
    alive[node] = false;
    for (r : 1 .. REFERENCES) {
        if
        :: watched[r] && on_node[r] == node -> watched[r] = false; send_to_python(node, DOWN, r)
        :: else -> skip
        fi
    }
    r = 0
}

/* A process for each node: takes what arrives, and finds out when the connection is lost. */
proctype Beam(byte n) {
    byte number;

end:
    do
    :: atomic { beam_up[n] && to_beam[n]?[MONITOR, _] ->
        to_beam[n]?MONITOR, number;
        if
        :: alive[n] -> watched[number] = true
#ifdef BUG_NO_NOPROC
        :: else -> skip
#else
        :: else -> send_to_python(n, DOWN, number)  /* noproc */
#endif
        fi;
        number = 0 }
    :: atomic { beam_up[n] && to_beam[n]?[DEMONITOR, _] ->
        to_beam[n]?DEMONITOR, number;
        watched[number] = false;
        number = 0 }
    :: atomic { beam_up[n] && to_beam[n]?[REPLY, _] ->
        to_beam[n]?REPLY, number;
        /* The monitor came before the ref, unless Python knows already that it is over. */
        assert(watched[number] || monitors[number] != ACTIVE || !alive[n]);
        number = 0 }
    :: atomic { beam_up[n] && !python_up[n] -> beam_loses(n) }
    od
}
