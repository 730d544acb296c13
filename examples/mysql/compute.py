"""The control plane and the compute nodes: mooring-controller, mooring-node, and the mooring CLI that speaks CSI to them."""

import json
import os
import uuid

from hosts import Failure, run, wait_until
from storage_host import GRPC_PORT, tls_files


class Control:
    """mooring-controller, the private CA, and an operator at the shell."""

    def __init__(self, host, programs, work_dir):
        self.host = host
        self.programs = programs
        self.work_dir = work_dir
        self.tls_dir = os.path.join(work_dir, "tls")
        self.endpoint = f"unix://{os.path.join(work_dir, 'controller.sock')}"
        self.config = os.path.join(work_dir, "controller.json")
        self.process = None

    def program(self, name):
        return os.path.join(self.programs, "bin", name)

    def make_certificates(self, server, nodes):
        mooring = self.program("mooring")
        run(mooring, "tls", "init", "--dir", self.tls_dir)

        def issue(name, *role):
            run(mooring, "tls", "issue", "--dir", self.tls_dir, "--out", os.path.join(self.tls_dir, name), *role)

        issue("store", "server", "store", server.address)
        issue("controller", "controller")
        issue("operator", "operator")
        for node in nodes:
            issue(node.name, "node", node.name)

    def use_server(self, address, pool_uuid):
        self.servers = [{"id": "store", "address": f"{address}:{GRPC_PORT}", "pool_uuid": pool_uuid}]
        with open(self.config, "w", encoding="utf-8") as config:
            json.dump({"endpoint": self.endpoint, "servers": self.servers, "tls": tls_files(self.tls_dir, "controller")},
                      config)

    def start(self):
        self.process = self.host.start("controller", self.program("mooring-controller"), "--config", self.config)

    def cli_config(self, name, node_endpoint=None):
        """What the operator's `mooring` reads: where the sockets and servers are."""
        path = os.path.join(self.work_dir, f"cli-{name}.json")
        content = {"controller": self.endpoint, "servers": self.servers, "tls": tls_files(self.tls_dir, "operator")}
        if node_endpoint:
            content["node"] = node_endpoint
        with open(path, "w", encoding="utf-8") as config:
            json.dump(content, config)
        return path

    def mooring(self, *arguments, config=None, host=None, timeout=120, check=True):
        """Run the CLI on a host; its JSON."""
        config = config or self.cli_config("operator")
        output = (host or self.host).run(self.program("mooring"), "--config", config, "-o", "json", *arguments,
                                         timeout=timeout, check=check)
        return json.loads(output) if check and output.strip() else output

    def create_volume(self, name, size, *more):
        return self.mooring("volume", "create", name, "--size", size, *more)["volume_id"]


class Compute:
    """A compute node. Its boot id ends with the (simulated) host, not with mooring-node."""

    def __init__(self, host, control, work_dir):
        self.host = host
        self.name = host.name
        self.control = control
        self.dir = os.path.join(work_dir, host.name)
        self.endpoint = f"unix://{os.path.join(self.dir, 'node.sock')}"
        self.config = os.path.join(self.dir, "node.json")
        self.boot_id_file = os.path.join(self.dir, "boot_id")
        self.process = None
        os.makedirs(self.dir)

    def boot(self, **options):
        """A new life of the host: a new boot id, and mooring-node with it."""
        with open(self.boot_id_file, "w", encoding="utf-8") as boot_id:
            boot_id.write(f"{uuid.uuid4()}\n")
        with open(self.config, "w", encoding="utf-8") as config:
            json.dump({
                "endpoint": self.endpoint,
                "node_id": self.name,
                "state_dir": os.path.join(self.dir, "state"),
                "servers": self.control.servers,
                "tls": tls_files(self.control.tls_dir, self.name),
                "boot_id_file": self.boot_id_file,
                "libexec_dir": os.path.join(self.control.programs, "bin"),
                "heartbeat_ms": 1000,
                "place": "fork",  # the host is simulated: nothing of it outside what the example made
                **options,
            }, config)
        self.start()

    def start(self):
        self.process = self.host.start("node", self.control.program("mooring-node"), "--config", self.config)
        self.cli = self.control.cli_config(self.name, self.endpoint)

    def registered(self):
        try:
            nodes = self.control.mooring("node", "list")
        except Failure: # the storage server is starting
            return False
        return any(node["node_id"] == self.name and not node["fenced"] for node in nodes)

    def wait_registered(self):
        wait_until(f"the registration of node {self.name}", self.registered)

    def path(self, kind, volume_id):
        return os.path.join(self.dir, kind, volume_id)

    def mount(self, volume_id, *more):
        """Attach here and mount; the path."""
        target = self.path("target", volume_id)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        self.control.mooring("volume", "mount", volume_id, "--staging",
                             self.path("staging", volume_id), "--target", target, *more, config=self.cli, host=self.host)
        return target

    def unmount(self, volume_id):
        """Unmount here and detach from this node."""
        self.control.mooring("volume", "unmount", volume_id, "--detach", "--staging",
                             self.path("staging", volume_id), "--target", self.path("target", volume_id), config=self.cli,
                             host=self.host)

    def end(self):
        """Everything of this host is gone, and a new life of it takes what the old one left away (all hosts here share
        one kernel, which does not forget mounts as a real host's reboot would)."""
        self.host.kill_all()
        self.boot()
        self.wait_registered()
