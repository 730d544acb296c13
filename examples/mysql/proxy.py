"""The address that clients use and that never changes: HAProxy, whose one server is told where the database is."""

import os
import socket

from hosts import Failure, wait_until

PORT = 3306


class Proxy:
    def __init__(self, host, work_dir):
        self.host = host
        self.control = os.path.join(work_dir, "haproxy.sock")
        self.config = os.path.join(work_dir, "haproxy.cfg")
        with open(self.config, "w", encoding="utf-8") as config:
            config.write(f"""
global
    stats socket {self.control} mode 600 level admin
    maxconn 200
defaults
    mode tcp
    timeout connect 500ms
    timeout client 120s
    timeout server 120s
    retries 0
listen database
    bind {host.address}:{PORT}
    server current 127.0.0.1:1 disabled on-marked-down shutdown-sessions
""")
        self.process = host.start("haproxy", "haproxy", "-db", "-f", self.config)
        wait_until("haproxy", lambda: os.path.exists(self.control))

    def command(self, text):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.control)
            client.sendall(text.encode() + b"\n")
            return client.makefile().read().strip()

    def point_at(self, address):
        """New connections go to the database there; those to the old place are ended."""
        self.command("set server database/current state maint")
        self.command("shutdown sessions server database/current")
        answer = self.command(f"set server database/current addr {address} port {PORT}")
        if "changed" not in answer and "no need" not in answer:
            raise Failure(f"haproxy: {answer}")
        self.command("set server database/current state ready")
