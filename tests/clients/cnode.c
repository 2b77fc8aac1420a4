/*
 * A C-node made with libei. Connects to the node PEER, asks it for this and that, and prints what
 * comes of it; then lets others connect, and answers what they send, until it is told to stop.
 *
 * Arguments: its name without the host, which is 127.0.0.1; the cookie; the peer's name; and
 * "global" if the peer is to be asked for global names as well.
 */
#include <arpa/inet.h>
#include <ei.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATIENCE 20000
#define LARGE 5000000

static void check(int result, const char *what)
{
    if (result < 0) {
        printf("failed=%s %d\n", what, erl_errno);
        exit(1);
    }
}

/* Print the term at `index`, which may begin with the version of the format. */
static void print_term(const char *what, const char *buffer, int index)
{
    char *text = NULL;
    int version;
    ei_decode_version(buffer, &index, &version);
    ei_s_print_term(&text, buffer, &index);
    printf("%s=%s\n", what, text);
    free(text);
}

static void call(ei_cnode *ec, int fd, char *module, char *function, ei_x_buff *args)
{
    ei_x_buff reply;
    char what[100];
    ei_x_new(&reply);
    check(ei_rpc(ec, fd, module, function, args->buff, args->index, &reply), function);
    snprintf(what, sizeof what, "%s:%s", module, function);
    print_term(what, reply.buff, 0);
    ei_x_free(&reply);
}

/* Wait for a message; its term is in `x`. Returns its type: ERL_SEND, ERL_LINK, ERL_EXIT... */
static int receive(int fd, erlang_msg *message, ei_x_buff *x)
{
    int result;
    do {
        x->index = 0;
        result = ei_xreceive_msg_tmo(fd, message, x, PATIENCE);
    } while (result == ERL_TICK);
    if (result == ERL_ERROR)
        return ERL_ERROR;
    return message->msgtype;
}

static void rpcs(ei_cnode *ec, int fd)
{
    ei_x_buff args;
    ei_x_new(&args);
    ei_x_format_wo_ver(&args, "[~i]", 16);
    call(ec, fd, "math", "sqrt", &args);
    args.index = 0;
    ei_x_format_wo_ver(&args, "[]");
    call(ec, fd, "erlang", "node", &args);
    call(ec, fd, "no_such_module", "f", &args);
    ei_x_free(&args);
}

static void messages(ei_cnode *ec, int fd)
{
    ei_x_buff x, answer;
    erlang_msg message;
    char *large = calloc(1, LARGE);
    ei_x_new(&answer);
    ei_x_new_with_version(&x);
    ei_x_encode_tuple_header(&x, 2);
    ei_x_encode_pid(&x, ei_self(ec));
    ei_x_encode_string(&x, "hello");
    check(ei_reg_send(ec, fd, "inbox", x.buff, x.index), "send");
    check(receive(fd, &message, &answer), "receive");
    print_term("answer", answer.buff, 0);

    x.index = 0;
    ei_x_encode_version(&x);
    ei_x_encode_tuple_header(&x, 2);
    ei_x_encode_pid(&x, ei_self(ec));
    ei_x_encode_binary(&x, large, LARGE);
    check(ei_reg_send(ec, fd, "inbox", x.buff, x.index), "send a large binary");
    check(receive(fd, &message, &answer), "receive a large binary");
    {
        int index = 0, version, arity;
        long size;
        ei_decode_version(answer.buff, &index, &version);
        ei_decode_tuple_header(answer.buff, &index, &arity);
        ei_skip_term(answer.buff, &index);
        ei_decode_binary(answer.buff, &index, large, &size);
        printf("large=%ld\n", size);
    }
    free(large);
    ei_x_free(&x);
    ei_x_free(&answer);
}

/* As a GenServer is called: {'$gen_call', {Pid, Tag}, Request}. */
static void gen_call(ei_cnode *ec, int fd)
{
    ei_x_buff x;
    erlang_ref tag;
    erlang_msg message;
    ei_make_ref(ec, &tag);
    ei_x_new_with_version(&x);
    ei_x_encode_tuple_header(&x, 3);
    ei_x_encode_atom(&x, "$gen_call");
    ei_x_encode_tuple_header(&x, 2);
    ei_x_encode_pid(&x, ei_self(ec));
    ei_x_encode_ref(&x, &tag);
    ei_x_encode_tuple_header(&x, 5);
    ei_x_encode_atom(&x, "call");
    ei_x_encode_binary(&x, "math", 4);
    ei_x_encode_binary(&x, "sqrt", 4);
    ei_x_format_wo_ver(&x, "[~i]", 16);
    ei_x_encode_map_header(&x, 0);
    check(ei_reg_send(ec, fd, "snakebridge", x.buff, x.index), "call");
    check(receive(fd, &message, &x), "reply");
    {
        int index = 0, version, arity;
        erlang_ref got;
        ei_decode_version(x.buff, &index, &version);
        ei_decode_tuple_header(x.buff, &index, &arity);
        ei_decode_ref(x.buff, &index, &got);
        printf("tag=%d\n", ei_cmp_refs(&got, &tag));
        print_term("reply", x.buff, index);
    }
    ei_x_free(&x);
}

static void global_names(ei_cnode *ec, int fd)
{
    erlang_pid pid;
    char node[MAXNODELEN + 1] = "";
    int count = 0;
    char **names = ei_global_names(ec, fd, &count);
    printf("names=%d %s\n", count, count ? names[0] : "");
    free(names);
    check(ei_global_whereis(ec, fd, "global_name", &pid, node), "whereis");
    printf("whereis=%s\n", node);
    printf("nobody=%d\n", ei_global_whereis(ec, fd, "nobody", &pid, node));
}

/* Answer {Pid, Message} with {echo, Message}; tell of links and exits; stop at the atom stop. */
static int serve(int fd)
{
    ei_x_buff x, answer;
    erlang_msg message;
    int type;
    ei_x_new(&x);
    ei_x_new(&answer);
    while ((type = receive(fd, &message, &x)) != ERL_ERROR) {
        int index = 0, version, arity;
        erlang_pid pid;
        char atom[MAXATOMLEN];
        if (type == ERL_LINK) {
            printf("link=%s\n", message.from.node);
            continue;
        }
        if (type == ERL_UNLINK) {
            printf("unlink=%s\n", message.from.node);
            continue;
        }
        if (type == ERL_EXIT || type == ERL_EXIT2) {
            print_term(type == ERL_EXIT ? "exit" : "exit2", x.buff, 0);
            continue;
        }
        ei_decode_version(x.buff, &index, &version);
        if (ei_decode_atom(x.buff, &index, atom) == 0 && strcmp(atom, "stop") == 0)
            return 0;
        if (ei_decode_tuple_header(x.buff, &index, &arity) || arity != 2
            || ei_decode_pid(x.buff, &index, &pid)) {
            print_term("ignored", x.buff, 0);
            continue;
        }
        answer.index = 0;
        ei_x_encode_version(&answer);
        ei_x_encode_tuple_header(&answer, 2);
        ei_x_encode_atom(&answer, "echo");
        ei_x_append_buf(&answer, x.buff + index, x.index - index);
        check(ei_send(fd, &pid, answer.buff, answer.index), "answer");
    }
    return 1;
}

int main(int argc, char **argv)
{
    ei_cnode ec;
    ErlConnect connection;
    struct in_addr address;
    char name[MAXNODELEN + 1];
    int fd, listener, port = 0, go_on = 1;

    setvbuf(stdout, NULL, _IOLBF, 0);
    ei_init();
    snprintf(name, sizeof name, "%s@127.0.0.1", argv[1]);
    address.s_addr = htonl(INADDR_LOOPBACK);
    check(ei_connect_xinit(&ec, "127.0.0.1", argv[1], name, &address, argv[2], 1), "init");
    fd = ei_connect(&ec, argv[3]);
    check(fd, "connect");
    rpcs(&ec, fd);
    messages(&ec, fd);
    gen_call(&ec, fd);
    if (argc > 4 && strcmp(argv[4], "global") == 0)
        global_names(&ec, fd);
    close(fd);

    listener = ei_xlisten(&ec, &address, &port, 5);
    check(listener, "listen");
    check(ei_publish(&ec, port), "publish");
    printf("ready=%s\n", name);
    while (go_on) {
        fd = ei_accept(&ec, listener, &connection);
        check(fd, "accept");
        printf("accepted=%s\n", connection.nodename);
        go_on = serve(fd);
        close(fd);
    }
    return 0;
}
