#!/usr/bin/python3
"""A backend for the tests: answers HTTP and UDP with who it is and who asks, and misbehaves on request.

The answer is one line of JSON: {"name": ..., "peer": "address:port", "local": "address:port", "pid": ...}.
HTTP connections stay open for more requests unless the client says "Connection: close".
Each process that it makes prints "backend NAME: WHAT pid PID".
"""

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time


def address(text):
    """ADDRESS:PORT, an IPv6 address in brackets."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def show(name):
    """The reverse of address(), of what the socket module returns."""
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--name", default="backend", help="what it calls itself in its answers")
    add("--tcp", action="append", default=[], type=address, metavar="ADDRESS:PORT", help="serve HTTP there")
    add("--udp", action="append", default=[], type=address, metavar="ADDRESS:PORT", help="answer datagrams there")
    add("--delay", type=float, default=0, metavar="SECONDS", help="wait before listening")
    add("--never-listen", action="store_true", help="run, but listen nowhere")
    add("--die-after", type=float, metavar="SECONDS", help="exit by itself, counted from the start")
    add("--exit-code", type=int, default=0, help="the status of --die-after")
    add("--fork", type=int, default=0, metavar="N", help="leave N idle children in the process group")
    add("--stray", action="store_true", help="leave one child outside of the group (double fork, setsid)")
    add("--daemonize", action="store_true", help="go outside of the group itself; the first process exits")
    add("--ignore-sigint", action="store_true", help="ignore SIGINT, children too")
    add("--ignore-sigterm", action="store_true", help="ignore SIGTERM, children too")
    add("--flood", type=int, metavar="LINES", help="print this many lines as fast as possible; 0 is without end")
    return parser.parse_args()


def say(args, what):
    # One write, so that the lines of several processes do not mix.
    os.write(1, f"backend {args.name}: {what} pid {os.getpid()}\n".encode())


def idle(args, what):
    say(args, what)
    while True:
        signal.pause()


def detach():
    """Leaves the process group for good; returns in the new process only, False in the first."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    return True


def answer(args, connection, peer):
    local = show(connection.getsockname())
    return json.dumps({"name": args.name, "peer": show(peer), "local": local, "pid": os.getpid()}) + "\n"


def serve_connection(args, connection, peer):
    with connection, connection.makefile("rb") as lines:
        while True:
            head = []
            for line in iter(lines.readline, b""):
                if line in (b"\r\n", b"\n"):
                    break
                head.append(line.strip().lower())
            else:
                return
            last = b"connection: close" in head
            body = answer(args, connection, peer)
            connection.sendall(
                f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                f"Connection: {'close' if last else 'keep-alive'}\r\n\r\n{body}".encode()
            )
            if last:
                return


def serve_connection_quietly(*arguments):
    try:
        serve_connection(*arguments)
    except OSError:
        pass  # the client is gone


def serve_tcp(args, listener):
    while True:
        connection, peer = listener.accept()
        threading.Thread(target=serve_connection_quietly, args=(args, connection, peer), daemon=True).start()


def serve_udp(args, listener):
    while True:
        try:
            _, peer = listener.recvfrom(65536)
            listener.sendto(answer(args, listener, peer).encode(), peer)
        except OSError:
            pass  # an ICMP error about an earlier answer


def listen(kind, where):
    family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind(where)
    if kind == socket.SOCK_STREAM:
        listener.listen(1024)
    return listener


def main():
    args = options()
    signal.signal(signal.SIGINT, signal.SIG_IGN if args.ignore_sigint else signal.SIG_DFL)
    if args.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    if args.daemonize and not detach():
        return
    say(args, "started")
    if args.stray and os.fork() == 0:
        if detach():
            idle(args, "stray")
        os._exit(0)
    for _ in range(args.fork):
        if os.fork() == 0:
            idle(args, "child")

    # All threads start after the last fork.
    if args.die_after is not None:
        timer = threading.Timer(args.die_after, lambda: (say(args, "dying"), os._exit(args.exit_code)))
        timer.daemon = True
        timer.start()
    if args.flood is not None:
        threading.Thread(target=flood, args=(args,), daemon=True).start()

    if not args.never_listen:
        time.sleep(args.delay)
        for kind, serve, places in [
            # First, so that who connects by TCP finds UDP bound too.
            (socket.SOCK_DGRAM, serve_udp, args.udp),
            (socket.SOCK_STREAM, serve_tcp, args.tcp),
        ]:
            for where in places:
                listener = listen(kind, where)
                threading.Thread(target=serve, args=(args, listener), daemon=True).start()
        say(args, "listening")
    while True:
        signal.pause()


def flood(args):
    line = 0
    while args.flood == 0 or line < args.flood:
        line += 1
        sys.stdout.write(f"flood line {line}\n")
    sys.stdout.flush()


main()
