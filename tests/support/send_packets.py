#!/usr/bin/python3
"""Sends IP packets, one per line of standard input as hexadecimal digits, from INTERFACE to the Ethernet address MAC.

They leave by a packet socket: neither this host's routes nor its checks of source addresses see them.
"""

import socket
import sys


def main():
    interface, mac = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", ""))
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
    for line in sys.stdin:
        packet = bytes.fromhex(line.strip())
        kind = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
        sender.sendto(packet, (interface, kind, 0, 0, mac))


main()
