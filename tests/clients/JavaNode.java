import com.ericsson.otp.erlang.*;
import java.util.Arrays;

/**
 * A node made with Jinterface. Asks the node PEER for this and that, and prints what comes of it;
 * then answers what is sent to its mailbox "java", until that is told to stop.
 *
 * <p>Arguments: its name, the cookie, the peer's name.
 */
public class JavaNode {
    static final long PATIENCE = 20_000;

    public static void main(String[] args) throws Exception {
        String peer = args[2];
        OtpNode node = new OtpNode(args[0], args[1]);
        print("ping", node.ping(peer, PATIENCE));
        rpc("rpc" + args[0], args[1], peer);
        OtpMbox mbox = node.createMbox("java");
        messages(mbox, peer);
        links(node, peer);
        call(mbox, peer);
        print("ready", mbox.self().node());
        serve(mbox);
        node.close();
    }

    static void print(String what, Object value) {
        System.out.println(what + "=" + value);
    }

    /** What OtpConnection does on its own, without mailboxes. */
    static void rpc(String name, String cookie, String peer) throws Exception {
        OtpSelf self = new OtpSelf(name, cookie);
        OtpConnection connection = self.connect(new OtpPeer(peer));
        connection.sendRPC("math", "sqrt", new OtpErlangList(new OtpErlangInt(16)));
        print("rpc", connection.receiveRPC());
        connection.sendRPC("no_such_module", "f", new OtpErlangList());
        print("undef", connection.receiveRPC());
        connection.close();
    }

    static void messages(OtpMbox mbox, String peer) throws Exception {
        OtpErlangObject[] pair = {mbox.self(), new OtpErlangString("hello")};
        mbox.send("inbox", peer, new OtpErlangTuple(pair));
        print("answer", mbox.receive(PATIENCE));
        // Terms of all kinds, and large ones: the other side sends back what it gets.
        OtpErlangObject[] elements = new OtpErlangObject[100_000];
        for (int i = 0; i < elements.length; i++) elements[i] = new OtpErlangInt(i - 50_000);
        byte[] bytes = new byte[5_000_000];
        Arrays.fill(bytes, (byte) 200);
        OtpErlangObject deep = new OtpErlangList();
        for (int i = 0; i < 500; i++) deep = new OtpErlangList(deep);
        OtpErlangObject[] keys = {new OtpErlangAtom("key"), new OtpErlangBinary("text".getBytes())};
        OtpErlangObject[] values = {new OtpErlangDouble(1.5), new OtpErlangAtom("\u00fcml\u00e4ut")};
        OtpErlangObject[] terms = {
            new OtpErlangList(elements), new OtpErlangBinary(bytes), deep,
            new OtpErlangMap(keys, values), new OtpErlangLong(Long.MIN_VALUE),
            mbox.self(), new OtpErlangRef("a@b", new int[] {1, 2, 3}, 4),
            new OtpErlangBitstr(new byte[] {1, (byte) 0xe0}, 5),
            new OtpErlangBoolean(true), new OtpErlangAtom("nil"),
        };
        for (OtpErlangObject term : terms) {
            OtpErlangObject[] request = {mbox.self(), term};
            mbox.send("inbox", peer, new OtpErlangTuple(request));
            OtpErlangTuple echo = (OtpErlangTuple) mbox.receive(PATIENCE);
            print("same " + term.getClass().getSimpleName(), echo.elementAt(1).equals(term));
        }
    }

    static OtpErlangPid victim(OtpMbox mbox, String peer) throws Exception {
        OtpErlangObject[] request = {mbox.self(), new OtpErlangAtom("victim")};
        mbox.send("inbox", peer, new OtpErlangTuple(request));
        return (OtpErlangPid) ((OtpErlangTuple) mbox.receive(PATIENCE)).elementAt(1);
    }

    static void links(OtpNode node, String peer) throws Exception {
        OtpMbox mbox = node.createMbox();
        // Its exit reaches us, and ours reaches it.
        OtpErlangPid pid = victim(mbox, peer);
        mbox.link(pid);
        mbox.send(pid, new OtpErlangAtom("exit"));
        try {
            print("exit", mbox.receive(PATIENCE));
        } catch (OtpErlangExit exit) {
            print("exit", exit.reason());
        }
        pid = victim(mbox, peer);
        mbox.exit(pid, "exit2");
        pid = victim(mbox, peer);
        mbox.link(pid);
        mbox.unlink(pid);
        pid = victim(mbox, peer);
        mbox.link(pid);
        mbox.exit("link");
        // What is not there any more.
        OtpMbox other = node.createMbox();
        pid = victim(other, peer);
        other.exit(pid, "kill");
        boolean told = false;
        while (!told) {
            try {
                other.link(pid);
                other.receive(PATIENCE);
            } catch (OtpErlangExit exit) {
                print("late link", exit.reason());
                told = true;
            }
        }
    }

    /** A call as a GenServer is called. */
    static void call(OtpMbox mbox, String peer) throws Exception {
        OtpErlangRef tag = new OtpErlangRef(mbox.self().node(), new int[] {7, 8, 9}, 1);
        OtpErlangObject[] arguments = {new OtpErlangInt(16)};
        OtpErlangObject[] request = {
            new OtpErlangAtom("call"), new OtpErlangBinary("math".getBytes()),
            new OtpErlangBinary("sqrt".getBytes()), new OtpErlangList(arguments), new OtpErlangMap(),
        };
        OtpErlangObject[] from = {mbox.self(), tag};
        OtpErlangObject[] call = {
            new OtpErlangAtom("$gen_call"), new OtpErlangTuple(from), new OtpErlangTuple(request),
        };
        mbox.send("snakebridge", peer, new OtpErlangTuple(call));
        OtpErlangTuple reply = (OtpErlangTuple) mbox.receive(PATIENCE);
        print("tag", reply.elementAt(0).equals(tag));
        print("reply", reply.elementAt(1));
    }

    /** Answer {Pid, Message} with {echo, Message}, and calls with {echo, Request}; self is a pid. */
    static void serve(OtpMbox mbox) throws Exception {
        while (true) {
            OtpErlangTuple message;
            try {
                OtpErlangObject received = mbox.receive();
                if (received.equals(new OtpErlangAtom("stop"))) return;
                message = (OtpErlangTuple) received;
            } catch (OtpErlangExit exit) {
                print("exit", exit.reason());
                continue;
            }
            boolean isCall = message.arity() == 3;
            OtpErlangTuple from = isCall ? (OtpErlangTuple) message.elementAt(1) : message;
            OtpErlangObject content = message.elementAt(isCall ? 2 : 1);
            if (content.equals(new OtpErlangAtom("self"))) content = mbox.self();
            OtpErlangObject[] echo = {new OtpErlangAtom("echo"), content};
            OtpErlangObject[] reply = {from.elementAt(isCall ? 1 : 0), new OtpErlangTuple(echo)};
            OtpErlangTuple answer = new OtpErlangTuple(isCall ? reply : echo);
            mbox.send((OtpErlangPid) from.elementAt(0), answer);
        }
    }
}
