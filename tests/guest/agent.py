#!/usr/bin/python3
"""Runs commands in the guest for guest.py: a JSON object a line over a virtio-serial port, both ways.

In:  {"id": 1, "command": "…", "environment": {…}}
Out: {"ready": boot id}, then for each command {"id": 1, "output": "…"} as it comes and {"id": 1, "status": 0} at its end.
{"halt": true} ends the agent.
"""
import glob
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time


def find_port():
    """Without udev nothing has made /dev/virtio-ports/."""
    while True:
        for name in glob.glob("/sys/class/virtio-ports/*/name"):
            if pathlib.Path(name).read_text(encoding="ascii").strip() == "guest":
                return f"/dev/{pathlib.Path(name).parent.name}"
        time.sleep(0.05)


class Agent:
    def __init__(self, port):
        self.port = open(port, "r+b", buffering=0)
        self.lock = threading.Lock()

    def say(self, **message):
        line = json.dumps(message).encode() + b"\n"
        with self.lock:
            while line:
                line = line[self.port.write(line):]

    def forward(self, job, pipe):
        while chunk := pipe.read1(65536):
            self.say(id=job, output=chunk.decode(errors="replace"))

    def execute(self, job, command, environment):
        """Its end is that of the shell: what it left in the background may hold the pipe for longer."""
        process = subprocess.Popen(["/bin/bash", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ, **environment})
        forwarding = threading.Thread(target=self.forward, daemon=True, args=(job, process.stdout))
        forwarding.start()
        status = process.wait()
        forwarding.join(1)
        self.say(id=job, status=status)

    def serve(self):
        self.say(ready=pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        for line in self.port:
            message = json.loads(line)
            if "halt" in message:
                return
            threading.Thread(target=self.execute, daemon=True,
                             args=(message["id"], message["command"], message["environment"])).start()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Agent(find_port()).serve()
    sys.exit(0)
