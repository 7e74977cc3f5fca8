"""What contrib/bench runs in its namespaces: measures the programs in a folder, and prints one table.

bench.py BINARIES FOLDER [GROUP...]
"""

import contextlib
import ctypes
import glob
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time

import bench_flows

BINARIES, FOLDER, *GROUPS = sys.argv[1:]
DAEMON = f"{BINARIES}/proxygw"
CLIENT = f"{BINARIES}/proxygwctl"
CONFIG = f"{FOLDER}/proxygw.yaml"
CONTROL = f"{FOLDER}/control"
LOG = f"{FOLDER}/log"
NOTIFY = f"{FOLDER}/notify"
PATIENCE = 60
# Groups that are measured only if they are named.
LONG = ["flows"]

# linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
NETLINK_NETFILTER = 12
NFNLGRP_NFTABLES = 7
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_NEWSETELEM = 12

over = 0


def row(name, values, unit, aim, digits=1):
    """Prints one row. One value or several; the median is held against the aim, if there is one."""
    global over
    values = sorted(values)
    median = statistics.median(values)
    spread = [f"{value:.{digits}f}" for value in (values[0], median, values[-1])]
    if len(values) == 1:
        spread = ["", spread[1], ""]
    verdict = "" if aim is None else "OK" if median <= aim else "OVER"
    over += verdict == "OVER"
    wanted = "" if aim is None else f"{aim:g} {unit}"
    print(f"| {name:<58} | {wanted:>8} | {spread[0]:>7} | {spread[1]:>7} | {spread[2]:>7} | {unit:<3} "
          f"| {len(values):>3} | {verdict:<4} |", flush=True)


def memory_of(pid, field):
    """A field of a process's status, in MB (of 1000000 bytes)."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) * 1024 / 1e6


# ---- the daemon ----

def write_config(targets, frontends):
    with open(CONFIG, "w") as file:
        file.write(f"version: v1\nlog:\n  output: {LOG}\nplugins:\n  ctl:\n    socket: {CONTROL}\n")
        file.write("targets:\n" + "".join(targets) + "frontends:\n" + "".join(frontends))


def target(number, kind, options="", idle="5m"):
    return (f"  - name: target-{number}\n    kind: {kind}\n    idle_timeout: {idle}\n    endpoints:\n"
            f"      - name: http\n        protocol: tcp\n        address: 127.0.0.1:{20000 + number}\n{options}")


def command(text):
    return f"    options:\n      command: {json.dumps(text)}\n"


def frontend(number, kind, options=""):
    return (f"  - name: frontend-{number}\n    kind: {kind}\n    protocol: tcp\n    listen: 10.0.0.1:{20000 + number}\n"
            f"    flow_timeout: 1m\n    target: target-{number}:http\n{options}")


def cold(count):
    """Commands behind HTTP frontends; none of them runs until a client comes."""
    content = "    options:\n      content: \"warming up\"\n"
    write_config([target(n, "static:cmd", command(f"exec /usr/bin/backend {n}")) for n in range(count)],
                 [frontend(n, "static:http", content) for n in range(count)])


def warm(count):
    """Backends that somebody else runs, each kept warm by its frontend."""
    write_config([target(n, "static:none", "    readiness:\n      probe: none\n") for n in range(count)],
                 [frontend(n, "static:always") for n in range(count)])


class Daemon:
    """A running daemon."""

    def __init__(self):
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(NOTIFY)
        self.notified.bind(NOTIFY)
        self.notified.settimeout(PATIENCE)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(LOG)
        self.began = time.monotonic()
        self.process = subprocess.Popen([DAEMON, "--config", CONFIG], env={**os.environ, "NOTIFY_SOCKET": NOTIFY},
                                        stdout=subprocess.DEVNULL, start_new_session=True)
        # Before it is ready, it hands descriptors to the service manager.
        while self.notified.recv(100) != b"READY=1":
            pass
        status = self.ask()
        # How long it took until it was ready and has said so through its control socket.
        self.start = time.monotonic() - self.began
        self.states = {entry["state"] for entry in json.loads(status)["body"]["frontends"]}
        assert self.states == {"running"}, self.states

    def ask(self):
        """One status request; the answer as it comes."""
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(PATIENCE)
            stream.connect(CONTROL)
            stream.sendall(b'{"id":1,"method":2,"body":{}}')
            answer = bytearray()
            while not answer.endswith(b"\n"):
                part = stream.recv(1 << 20)
                assert part, "the daemon has closed the connection"
                answer += part
            return answer

    def states_of_targets(self):
        return [entry["state"] for entry in json.loads(self.ask())["body"]["targets"]]

    def wait_for(self, state):
        """Until all targets are in the state."""
        end = time.monotonic() + PATIENCE
        while set(self.states_of_targets()) != {state}:
            assert time.monotonic() < end, f"not {state}: {open(LOG).read()[-2000:]}"
            time.sleep(0.02)

    def memory(self, field="VmRSS"):
        return memory_of(self.process.pid, field)

    def switches(self):
        """How often its threads have been given a processor."""
        count = 0
        for path in glob.glob(f"/proc/{self.process.pid}/task/*/status"):
            with open(path) as file:
                count += sum(int(line.split()[1]) for line in file if "ctxt_switches" in line)
        return count

    def stop(self):
        """Returns how long the end took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(PATIENCE)
        took = time.monotonic() - began
        self.notified.close()
        assert status == 0, f"status {status}: {open(LOG).read()[-2000:]}"
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, check=True).stdout
        assert tables == b"", tables
        return took


def settled(daemon):
    """Its memory, once what it does after its start is over."""
    time.sleep(0.5)
    return daemon.memory()


# ---- the groups ----

def size():
    row("size of the daemon", [os.path.getsize(DAEMON) / 1e6], "MB", 2.0, 2)


def memory():
    for name, fill, count, aim in [("memory, 1 target, cold", cold, 1, 5), ("memory, 1,000 targets, cold", cold, 1000, 15),
                                   ("memory, 1,000 targets, all warm", warm, 1000, None)]:
        fill(count)
        values, peaks = [], []
        for _ in range(3):
            daemon = Daemon()
            if fill is warm:
                daemon.wait_for("active")
            values.append(settled(daemon))
            peaks.append(daemon.memory("VmHWM"))
            daemon.stop()
        row(name, values, "MB", aim)
        row("  its peak", peaks, "MB", None)


def idle():
    for name, fill, count, aim in [("idle 30 s, 1,000 targets, cold: context switches", cold, 1000, 0)]:
        fill(count)
        daemon = Daemon()
        time.sleep(2)
        before = daemon.switches()
        time.sleep(30)
        row(name, [daemon.switches() - before], "", aim, 0)
        daemon.stop()


def hostile():
    """Files of at most 8 MiB, each of another kind of malice."""
    full = 8 << 20
    filled = lambda unit, begin="": (begin + unit * (full // len(unit)))[:full]
    laughs = "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30))
    yield "opening brackets", filled("[")
    yield "opening braces", filled("{")
    yield "nested sequences", filled("- ")
    yield "a billion laughs", laughs
    yield "scalars of one byte", filled("- a\n")
    yield "empty maps", filled("{},", "targets: [")
    yield "one scalar", filled("a", "version: ")
    yield "one key in a map", filled("a: b\n")
    yield "anchors", filled("- &a\n")
    yield "aliases of a long list", "a: &a [" + "x," * 100000 + "]\nb: [" + "*a," * 1000000 + "]\n"
    yield "documents", filled("---\n")
    yield "targets that are wrong", filled("- {name: }\n", "version: v1\ntargets:\n")
    yield "one byte too much", "#" * (full + 1)


def peak_of(arguments):
    """Runs a program; its exit status, its peak of memory in MB, and how long it took in ms.

    A child's rusage begins at the memory of its parent, and a program that is gone has no VmHWM. So it is traced, and
    stopped by the kernel right before its end: ptrace(2), PTRACE_EVENT_EXIT.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    trace_me, go_on, set_options, trace_exit = 0, 7, 0x4200, 0x40

    def ptrace(request, pid=0, data=0):
        if libc.ptrace(request, pid, ctypes.c_void_p(0), ctypes.c_void_p(data)) < 0:
            raise OSError(ctypes.get_errno(), "ptrace")

    began = time.monotonic()
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               preexec_fn=lambda: ptrace(trace_me))
    os.waitpid(process.pid, 0)
    ptrace(set_options, process.pid, trace_exit)
    ptrace(go_on, process.pid)
    _, status = os.waitpid(process.pid, 0)
    assert status >> 8 == signal.SIGTRAP | 6 << 8, hex(status)
    peak = memory_of(process.pid, "VmHWM")
    ptrace(go_on, process.pid)
    return process.wait(), peak, (time.monotonic() - began) * 1000


def bounds():
    times, peaks = {}, {}
    for name, text in hostile():
        path = f"{FOLDER}/hostile.yaml"
        with open(path, "w") as file:
            file.write(text)
        for _ in range(3):
            code, peak, took = peak_of([DAEMON, "--check", "--config", path])
            assert code == 2, (name, code)
            times.setdefault(name, []).append(took)
            peaks.setdefault(name, []).append(peak)
    for name, took in times.items():
        row(f"--check of 8 MiB, {name}", took, "ms", 1000, 0)
        row("  its peak of memory", peaks[name], "MB", 64)


def start():
    for name, fill, count, aim, stop, runs in [
            ("1 frontend", cold, 1, 50, None, 15), ("1,000 frontends", cold, 1000, 300, 1000, 7),
            ("1,000 frontends, all warm", warm, 1000, 300, 1000, 5), ("10,000 frontends", cold, 10000, 3000, None, 3)]:
        fill(count)
        starts, stops = [], []
        for _ in range(runs):
            daemon = Daemon()
            if fill is warm:
                daemon.wait_for("active")
            starts.append(daemon.start * 1000)
            stops.append(daemon.stop() * 1000)
        row(f"start to ready, {name}", starts, "ms", aim, 0)
        row(f"stop, {name}", stops, "ms", stop, 0)


def rules():
    """The kernel's word on each change of the rules."""
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    # Without an address of its own, it hears nothing.
    events.bind((0, 0))
    # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP
    events.setsockopt(270, 1, NFNLGRP_NFTABLES)
    events.settimeout(PATIENCE)
    return events


def routed(events):
    """Waits until an element of an `active` map is in the kernel, and returns when that was."""
    while True:
        data = events.recv(1 << 20)
        now = time.monotonic_ns()
        while len(data) >= 16:
            length, kind = int.from_bytes(data[:4], sys.byteorder), int.from_bytes(data[4:6], sys.byteorder)
            if kind == NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM and b"active_" in data[:length]:
                return now
            data = data[(length + 3) & ~3:]


def from_ready():
    """From right before the backend's listen() to the kernel's word that its DNAT is in."""
    for name, delay, aim, runs in [("backend listens to DNAT in the kernel", 0, 10, 40),
                                   ("  of a backend that takes 1 s to start", 1, 10, 20)]:
        moment = f"{FOLDER}/moment"
        backend = (f"import socket,time,os,signal; s=socket.socket(); s.setsockopt(1,2,1); s.bind(('127.0.0.1',20000)); "
                   f"time.sleep({delay}); t=time.monotonic_ns(); s.listen(); "
                   f"open('{moment}.new','w').write(str(t)); os.rename('{moment}.new','{moment}'); signal.pause()")
        write_config([target(0, "static:cmd", command(f"exec /usr/bin/python3 -S -c \"{backend}\""))],
                     [frontend(0, "static:http", "    options:\n      content: \"warming up\"\n")])
        daemon = Daemon()
        values = []
        for _ in range(runs):
            events = rules()
            subprocess.run([CLIENT, "--socket", CONTROL, "warm", "target-0"], check=True)
            at = routed(events)
            events.close()
            while not os.path.exists(moment):
                time.sleep(0.01)
            with open(moment) as file:
                values.append((at - int(file.read())) / 1e6)
            os.unlink(moment)
            daemon.wait_for("active")
            subprocess.run([CLIENT, "--socket", CONTROL, "drain", "target-0"], check=True)
            daemon.wait_for("inactive")
        daemon.stop()
        row(name, values, "ms", aim)


def status():
    cold(1000)
    daemon = Daemon()
    for name, how, aim in [("proxygwctl status, 1,000 targets, --config", ["--config", CONFIG], 30),
                           ("proxygwctl status, 1,000 targets, --socket", ["--socket", CONTROL], 30)]:
        values = []
        for _ in range(20):
            began = time.monotonic()
            subprocess.run([CLIENT, *how, "status"], stdout=subprocess.DEVNULL, check=True)
            values.append((time.monotonic() - began) * 1000)
        row(name, values, "ms", aim)
    values = []
    for _ in range(20):
        began = time.monotonic()
        daemon.ask()
        values.append((time.monotonic() - began) * 1000)
    row("  the daemon's part of it", values, "ms", None)
    daemon.stop()


def main():
    groups = {"size": size, "memory": memory, "idle": idle, "bounds": bounds, "start": start, "warm": from_ready,
              "status": status, "flows": lambda: bench_flows.measure(sys.modules[__name__])}
    wrong = [group for group in GROUPS if group not in groups]
    if wrong:
        sys.exit(f"bench: there is no group {wrong[0]!r}; there are {', '.join(groups)}")
    # Namespaces begin with everything down.
    for words in ("link set lo up", "address add 10.0.0.1/32 dev lo"):
        subprocess.run(["ip", *words.split()], check=True)
    print(f"| {'what':<58} | {'aim':>8} | {'min':>7} | {'median':>7} | {'max':>7} | {'':<3} | {'n':>3} | {'':<4} |")
    print(f"|{'-' * 60}|{'-' * 9}:|{'-' * 8}:|{'-' * 8}:|{'-' * 8}:|{'-' * 5}|{'-' * 4}:|{'-' * 6}|")
    for name, measure in groups.items():
        if name in GROUPS or (not GROUPS and name not in LONG):
            measure()
    sys.exit(1 if over else 0)


main()
