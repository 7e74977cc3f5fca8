"""What contrib/bench-hold runs in its namespaces.

bench-hold.py BINARIES FOLDER COLD_STARTS
"""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time

BINARIES, FOLDER, STARTS = sys.argv[1], sys.argv[2], int(sys.argv[3])
GATEWAY = "198.51.100.1"
CONTROL = f"{FOLDER}/control"
PROXYD = "/lib/systemd/systemd-socket-proxyd"

BACKEND = f"{FOLDER}/backend.py"
BACKEND_CODE = '''
import os, socket, sys, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=4096)
with open(sys.argv[2] + ".new", "w") as file:
    # When bash started this program, and when it began to listen.
    file.write(f"{os.environ['BEGAN']} {time.time()}")
os.rename(sys.argv[2] + ".new", sys.argv[2])
while True:
    stream, _ = listener.accept()
    stream.recv(1)
    stream.send(b"x")
    stream.close()
'''


def backend(port):
    """A shell's command that serves, and notes its own times: bash knows the time without another process."""
    return f"exec bash -c 'BEGAN=$EPOCHREALTIME exec /usr/bin/python3 -S {BACKEND} {port} {FOLDER}/times-{port}'"


def run(*command, inside=None):
    prefix = ["nsenter", f"--net=/proc/{inside}/ns/net"] if inside else []
    return subprocess.run([*prefix, *command], check=True, capture_output=True, text=True).stdout


def make_client():
    """The client's namespace, held by a process; this process's own is the gateway's."""
    holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    own = os.readlink("/proc/self/ns/net")
    while os.readlink(f"/proc/{holder.pid}/ns/net") == own:
        time.sleep(0.001)
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "clients", "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
    run("ip", "addr", "add", f"{GATEWAY}/24", "dev", "clients")
    run("ip", "link", "set", "clients", "up")
    run("ip", "link", "set", "lo", "up", inside=holder.pid)
    run("ip", "addr", "add", "198.51.100.2/24", "dev", "eth0", inside=holder.pid)
    run("ip", "link", "set", "eth0", "up", inside=holder.pid)
    return holder.pid


def control(method, name=None):
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(10)
        stream.connect(CONTROL)
        body = {"name": name} if name else {}
        stream.sendall(json.dumps({"id": 1, "method": method, "body": body}).encode())
        answer = b""
        while not answer.endswith(b"\n"):
            answer += stream.recv(65536)
        return json.loads(answer)["body"]


def state(name):
    return next(target["state"] for target in control(2)["targets"] if target["name"] == name)


def await_state(name, wanted):
    until = time.monotonic() + 20
    while state(name) != wanted:
        if time.monotonic() > until:
            sys.exit(f"{name} does not become {wanted}")
        time.sleep(0.002)


def start_daemon():
    kinds = [("hold", 81, "packet:hold", "{}"), ("wait", 82, "packet:hold", "{replay: false}"),
             ("always", 83, "static:always", "{}")]
    targets = [f"  - {{name: {name}, kind: 'static:cmd', idle_timeout: 1h, endpoints: [{{name: e, protocol: tcp, "
               f"address: '127.0.0.1:{8000 + port}'}}], options: {{command: {json.dumps(backend(8000 + port))}}}}}"
               for name, port, _, _ in kinds]
    frontends = [f"  - {{name: {name}, kind: '{kind}', protocol: tcp, listen: '0.0.0.0:{port}', flow_timeout: 60s, "
                 f"target: '{name}:e', options: {options}}}" for name, port, kind, options in kinds]
    with open(f"{FOLDER}/config", "w") as file:
        file.write(f"version: v1\nplugins: {{ctl: {{socket: {CONTROL}}}}}\ntargets:\n" + "\n".join(targets) +
                   "\nfrontends:\n" + "\n".join(frontends) + "\n")
    with open(f"{FOLDER}/log", "w") as log:
        daemon = subprocess.Popen([f"{BINARIES}/proxygw", "--config", f"{FOLDER}/config"], stderr=log)
    await_ready = time.monotonic() + 10
    while time.monotonic() < await_ready:
        try:
            await_state("always", "active")
            return daemon
        except OSError:
            time.sleep(0.01)
    sys.exit("the daemon is not ready")


def first_byte(port):
    """When the client began to connect, and when it had its first byte."""
    began = time.time()
    with socket.create_connection((GATEWAY, port), timeout=30) as stream:
        stream.send(b"?")
        if stream.recv(1) != b"x":
            raise OSError("no answer")
        return began, time.time()


def in_client(task):
    """Runs a task in a thread that has entered the client's namespace."""
    result = []

    def body():
        os.setns(CLIENT_NS, 0x40000000) if hasattr(os, "setns") else LIBC.setns(CLIENT_NS, 0x40000000)
        result.append(task())

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    return result[0]


def own_start(port):
    path = f"{FOLDER}/times-{port}"
    with open(path) as file:
        began, listening = map(float, file.read().split())
    os.unlink(path)
    return listening - began


def row(name, values, aims=("", "")):
    values = sorted(1000 * value for value in values)
    last = values[min(len(values) - 1, int(len(values) * 0.95))]
    print(f"| {name:<52} | {len(values):>4} | {statistics.median(values):>8.1f} | {aims[0]:>4} "
          f"| {last:>8.1f} | {aims[1]:>4} |", flush=True)
    return statistics.median(values), last


def cold(name, port, starts):
    values = []
    for _ in range(starts):
        began, served = in_client(lambda: first_byte(port))
        values.append(served - began - own_start(8000 + port))
        await_state(name, "active")
        control(10, name)
        await_state(name, "inactive")
    return values


def await_listener(wanted):
    until = time.monotonic() + 10
    while (":90 " in run("ss", "-Hltn")) != wanted:
        if time.monotonic() > until:
            sys.exit("port 90 does not open or close")
        time.sleep(0.005)


def activated(starts):
    """systemd-socket-activate accepts for a proxy that needs its backend: what a unit's Requires= and After= do, a loop
    does here."""
    values = []
    script = (f"({backend(9000)}) & until (exec 3<>/dev/tcp/127.0.0.1/9000) 2>/dev/null; do sleep 0.001; done; "
              f"exec {PROXYD} 127.0.0.1:9000")
    for _ in range(starts):
        activate = subprocess.Popen(["systemd-socket-activate", "-l", f"{GATEWAY}:90", "bash", "-c", script],
                                    stderr=subprocess.DEVNULL, start_new_session=True)
        await_listener(True)
        began, served = in_client(lambda: first_byte(90))
        values.append(served - began - own_start(9000))
        os.killpg(activate.pid, signal.SIGKILL)
        activate.wait()
        # The other processes of the group have the listening socket too, until they have ended.
        await_listener(False)
    return values


def crowd(count):
    """Clients that arrive within one second at a cold target."""
    times, errors = [], []

    def client(delay):
        time.sleep(delay)
        try:
            began, served = first_byte(81)
            times.append(served - began)
        except OSError as error:
            errors.append(error)

    def arrive():
        # Threads inherit the namespace of the one that starts them.
        threads = [threading.Thread(target=client, args=(number / count,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with open(f"{FOLDER}/log") as log:
        before = log.read().count("target hold: warming")
    in_client(arrive)
    with open(f"{FOLDER}/log") as log:
        warms = log.read().count("target hold: warming") - before
    return times, errors, warms


CLIENT = make_client()
CLIENT_NS = os.open(f"/proc/{CLIENT}/ns/net", os.O_RDONLY)
if not hasattr(os, "setns"):
    import ctypes
    LIBC = ctypes.CDLL(None, use_errno=True)
with open(BACKEND, "w") as file:
    file.write(BACKEND_CODE)
daemon = start_daemon()
print("From connect to the first byte, less the backend's own start, in milliseconds:\n")
print(f"| {'':<52} | {'runs':>4} | {'median':>8} | {'aim':>4} | {'95 %':>8} | {'aim':>4} |")
print(f"|{'-' * 54}|-----:|---------:|-----:|---------:|-----:|")
median, last = row("packet:hold", cold("hold", 81, STARTS), ("12", "25"))
row("packet:hold with replay: false (retransmission)", cold("wait", 82, max(1, STARTS // 5)))
row("systemd-socket-activate and systemd-socket-proxyd", activated(max(1, STARTS // 5)))
always = []
for _ in range(STARTS):
    began, served = in_client(lambda: first_byte(83))
    always.append(served - began)
row("an always warm backend behind DNAT", always)
times, errors, warms = crowd(1000)
print(f"\n1,000 clients within one second at a cold target: {len(times)} served, {len(errors)} not, {warms} warm.")
row("from connect to the first byte", times)
daemon.terminate()
daemon.wait(20)
sys.exit(0 if median <= 12 and last <= 25 and len(times) == 1000 and warms == 1 else 1)
