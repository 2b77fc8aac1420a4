/*
 * A C-node made with libei that answers as the BEAM peer does: {call, Module, Function, Args, _}
 * from gen_server:call, where a function that is no "sqrt" is an echo. It parses what it needs, and
 * copies the argument of an echo unparsed. One thread, one connection at a time.
 *
 * Arguments: its name without the host, which is 127.0.0.1, and the cookie.
 */
#include <arpa/inet.h>
#include <ei.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "%s failed: %d\n", what, erl_errno);
        exit(1);
    }
}

/* Decode the argument list [Number], which comes as a string if the number is small. */
static double number(const char *buffer, int index)
{
    char string[2];
    double result;
    long integer;
    int type, size;
    check(ei_get_type(buffer, &index, &type, &size), "type");
    if (type == ERL_STRING_EXT && size == 1) {
        check(ei_decode_string(buffer, &index, string), "string");
        return (unsigned char)string[0];
    }
    check(ei_decode_list_header(buffer, &index, &size), "list");
    if (ei_decode_long(buffer, &index, &integer) == 0)
        return integer;
    check(ei_decode_double(buffer, &index, &result), "number");
    return result;
}

static void answer(int fd, const ei_x_buff *x, ei_x_buff *reply)
{
    int index = 0, version, arity, tag, tag_end, end;
    char name[MAXATOMLEN];
    erlang_pid caller;
    check(ei_decode_version(x->buff, &index, &version), "version");
    check(ei_decode_tuple_header(x->buff, &index, &arity), "call");
    check(ei_decode_atom(x->buff, &index, name), "$gen_call");
    check(ei_decode_tuple_header(x->buff, &index, &arity), "from");
    check(ei_decode_pid(x->buff, &index, &caller), "caller");
    tag = index;
    check(ei_skip_term(x->buff, &index), "tag");
    tag_end = index;
    check(ei_decode_tuple_header(x->buff, &index, &arity), "request");
    check(ei_skip_term(x->buff, &index), "call");
    check(ei_skip_term(x->buff, &index), "module");
    {
        int type, size;
        long length;
        check(ei_get_type(x->buff, &index, &type, &size), "function");
        check(size < MAXATOMLEN ? 0 : -1, "length of the name");
        check(ei_decode_binary(x->buff, &index, name, &length), "function");
        name[length] = 0;
    }
    reply->index = 0;
    ei_x_encode_version(reply);
    ei_x_encode_tuple_header(reply, 2);
    ei_x_append_buf(reply, x->buff + tag, tag_end - tag);
    ei_x_encode_tuple_header(reply, 2);
    ei_x_encode_atom(reply, "ok");
    if (strcmp(name, "sqrt") == 0) {
        ei_x_encode_double(reply, sqrt(number(x->buff, index)));
    } else {
        check(ei_decode_list_header(x->buff, &index, &arity), "arguments");
        end = index;
        check(ei_skip_term(x->buff, &end), "argument");
        ei_x_append_buf(reply, x->buff + index, end - index);
    }
    check(ei_send(fd, &caller, reply->buff, reply->index), "send");
}

int main(int argc, char **argv)
{
    ei_cnode ec;
    ErlConnect connection;
    struct in_addr address = {htonl(INADDR_LOOPBACK)};
    char name[MAXNODELEN + 1];
    ei_x_buff x, reply;
    erlang_msg message;
    int fd, listener, port = 0, type;

    if (argc != 3)
        return 2;
    ei_init();
    snprintf(name, sizeof name, "%s@127.0.0.1", argv[1]);
    check(ei_connect_xinit(&ec, "127.0.0.1", argv[1], name, &address, argv[2], 1), "init");
    listener = ei_xlisten(&ec, &address, &port, 5);
    check(listener, "listen");
    check(ei_publish(&ec, port), "publish");
    printf("ready %s\n", name);
    fflush(stdout);
    ei_x_new(&x);
    ei_x_new(&reply);
    while ((fd = ei_accept(&ec, listener, &connection)) >= 0) {
        do {
            x.index = 0;
            type = ei_xreceive_msg(fd, &message, &x);
            /* Monitors, which a call begins and ends with, have other types. */
            if (type == ERL_MSG && message.msgtype == ERL_REG_SEND)
                answer(fd, &x, &reply);
        } while (type != ERL_ERROR);
    }
    return 0;
}
