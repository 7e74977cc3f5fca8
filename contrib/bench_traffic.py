"""The traffic of the benchmark's group `flows`. One process is one part of it, in a namespace of its own.

bench_traffic.py serve ADDRESS PORT            answers each datagram, and each piece of each TCP connection, with itself
bench_traffic.py hold ADDRESS PORT SECONDS     one TCP connection with a byte in so many seconds; 0: only the first
bench_traffic.py udp|tcp ADDRESS PORT RATE     so many flows in a second, each of one question and its answer
bench_traffic.py spray ADDRESS COUNT           one datagram to each of so many ports and addresses, then the end

The others run until SIGTERM. Then udp and tcp print how many flows were answered, how many failed, and in how many seconds.
"""

import ipaddress
import selectors
import signal
import socket
import sys
import time

PATIENCE = 2
# A port comes again when its last flow has long left the conntrack table, or TIME_WAIT.
PORTS = range(1024, 65536)
KINDS = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}


def serve(address, port):
    waiting = selectors.DefaultSelector()
    listener = socket.create_server((address, port), backlog=1024)
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((address, port))
    for one in (listener, datagrams):
        one.setblocking(False)
        waiting.register(one, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in waiting.select():
            one = key.fileobj
            if one is listener:
                stream, _ = listener.accept()
                waiting.register(stream, selectors.EVENT_READ)
            elif one is datagrams:
                data, sender = datagrams.recvfrom(2048)
                datagrams.sendto(data, sender)
            else:
                try:
                    data = one.recv(2048)
                except ConnectionError:
                    data = b""
                if data:
                    one.send(data)
                else:
                    waiting.unregister(one)
                    one.close()


def hold(address, port, pause):
    with socket.create_connection((address, port), timeout=PATIENCE) as stream:
        stream.send(b"x")
        stream.recv(1)
        print("ready", flush=True)
        while pause:
            time.sleep(pause)
            stream.send(b"x")
            stream.recv(1)
        signal.pause()


def flow(kind, port, to):
    with socket.socket(socket.AF_INET, kind) as one:
        one.settimeout(PATIENCE)
        if kind == socket.SOCK_STREAM:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("", port))
        one.connect(to)
        one.send(b"x")
        one.recv(1)


def flows(kind, address, port, rate):
    answered = failed = 0
    began = time.monotonic()

    def end(*_):
        print(answered, failed, time.monotonic() - began, flush=True)
        sys.exit()

    signal.signal(signal.SIGTERM, end)
    print("ready", flush=True)
    while True:
        for source in PORTS:
            time.sleep(max(0, began + (answered + failed) / rate - time.monotonic()))
            try:
                flow(KINDS[kind], source, (address, port))
                answered += 1
            except OSError:
                failed += 1


def spray(address, count):
    """Its speed outruns queues on the way, so whoever wants an exact number asks again."""
    first = ipaddress.ip_address(address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("", PORTS[0]))
        for number in range(count):
            one.sendto(b"x", (str(first + number // 50_000), 1024 + number % 50_000))


what, *words = sys.argv[1:]
if what == "serve":
    serve(words[0], int(words[1]))
elif what == "hold":
    hold(words[0], int(words[1]), float(words[2]))
elif what == "spray":
    spray(words[0], int(words[1]))
else:
    flows(what, words[0], int(words[1]), float(words[2]))
