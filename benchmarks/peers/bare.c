/*
 * What answers gen_server:call and does nothing else: no node, but a connection that somebody else
 * has made, on which every call is answered with {ok, 4.0} and all else is passed over. The caller
 * sends three frames for each, MONITOR_P, REG_SEND and DEMONITOR_P, as to any node that offers
 * DIST_MONITOR.
 *
 * Arguments: the number of the socket, which blocks, after a handshake with FRAGMENTS and without
 * the atom cache: every frame has a distribution header then, and those here are empty. And the
 * name of this node, whose creation is 1.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

typedef const unsigned char *bytes;

/* More than a fragment. An answer is less than eight times as long as its call. */
static unsigned char in[1 << 17], out[8 * sizeof in];
/* The control message of each answer, {33, FromPid, Alias}, up to the alias. */
static unsigned char head[512];
static size_t head_size;

/* Each of these returns what follows at `at`, NULL if something else is there or `at` is NULL. */

static bytes over(bytes at, bytes end, const char *what, size_t size)
{
    return at && (size_t)(end - at) >= size && memcmp(at, what, size) == 0 ? at + size : NULL;
}
#define OVER(at, end, what) over(at, end, what, sizeof(what) - 1)

static bytes over_any(bytes at, bytes end, size_t size)
{
    return at && (size_t)(end - at) >= size ? at + size : NULL;
}

static bytes over_atom(bytes at, bytes end)
{
    if (over_any(at, end, 3) == NULL)
        return NULL;
    if (at[0] == 'w') /* SMALL_ATOM_UTF8_EXT, ATOM_UTF8_EXT */
        return over_any(at, end, 2 + at[1]);
    return at[0] == 'v' ? over_any(at, end, 3 + (at[1] << 8 | at[2])) : NULL;
}

static bytes over_pid(bytes at, bytes end) /* NEW_PID_EXT */
{
    return over_any(over_atom(OVER(at, end, "X"), end), end, 12);
}

static bytes over_reference(bytes at, bytes end) /* NEWER_REFERENCE_EXT */
{
    if (over_any(at, end, 3) == NULL || at[0] != 'Z')
        return NULL;
    return over_any(over_atom(at + 3, end), end, 4 + 4 * (at[1] << 8 | at[2]));
}

static unsigned char *put(unsigned char *to, const void *what, size_t size)
{
    memcpy(to, what, size);
    return to + size;
}
#define PUT(to, what) put(to, what, sizeof(what) - 1)

/* Write the answer to a frame; return how long it is, 0 if the frame is no call. */
static size_t answer(bytes at, bytes end, unsigned char *begin)
{
    bytes tag, alias, tag_end;
    unsigned char *to = begin + 4;
    size_t size;
    /* {6, FromPid, Unused, ToName}, then {'$gen_call', {Caller, [alias | Alias]}, Request}. */
    at = over_pid(OVER(at, end, "\203D\0h\4a\6"), end);
    at = over_atom(over_atom(at, end), end);
    tag = over_pid(OVER(at, end, "h\3w\11$gen_callh\2"), end);
    alias = OVER(tag, end, "l\0\0\0\1w\5alias");
    tag_end = over_reference(alias, end);
    if (tag_end == NULL)
        return 0;
    to = put(to, head, head_size);
    to = put(to, alias, tag_end - alias);
    to = PUT(to, "h\2"); /* {Tag, {ok, 4.0}} */
    to = put(to, tag, tag_end - tag);
    to = PUT(to, "h\2w\2okF\100\20\0\0\0\0\0\0");
    size = to - begin - 4;
    for (int i = 0; i < 4; i++)
        begin[i] = size >> (24 - 8 * i);
    return size + 4;
}

/* Answer the frames in the first `have` bytes, by one write. Returns the size of all of them. */
static size_t serve(int fd, size_t have)
{
    size_t at = 0, used = 0, sent = 0, size;
    while (have - at >= 4) {
        size = (size_t)in[at] << 24 | in[at + 1] << 16 | in[at + 2] << 8 | in[at + 3];
        if (have - at - 4 < size)
            break;
        if (size > 0)
            used += answer(in + at + 4, in + at + 4 + size, out + used);
        else /* A tick for each tick: a peer from which nothing comes is taken for lost. */
            used = put(out + used, in + at, 4) - out;
        at += 4 + size;
    }
    while (sent < used) {
        ssize_t some = send(fd, out + sent, used - sent, MSG_NOSIGNAL);
        if (some < 0)
            exit(0); /* The peer has gone. */
        sent += some;
    }
    return at;
}

int main(int argc, char **argv)
{
    size_t have = 0, done, length;
    unsigned char *to;
    ssize_t got;
    int fd;

    if (argc != 3 || (length = strlen(argv[2])) > 255)
        return 2;
    fd = atoi(argv[1]);
    to = PUT(head, "\203D\0h\3a\41Xw");
    *to++ = length;
    to = put(to, argv[2], length);
    to = PUT(to, "\0\0\0\1\0\0\0\0\0\0\0\1"); /* number, serial, creation */
    head_size = to - head;
    while ((got = recv(fd, in + have, sizeof in - have, 0)) > 0) {
        have += got;
        done = serve(fd, have);
        memmove(in, in + done, have -= done);
        if (have == sizeof in) {
            fprintf(stderr, "A frame is longer than %zu bytes.\n", sizeof in);
            return 1;
        }
    }
    return 0;
}
