#!/usr/bin/python3
"""Boots one of Debian's kernels in QEMU, without KVM, and runs commands in it. See README.md; in short:

    with guest.Guest("6.12", disks=["4G"], packages=["open-iscsi"]) as machine:
        status, output = machine.run("modprobe ublk_drv && mkfs.ext4 /dev/vda", timeout_s=60)

or from the shell: tests/guest/guest.py --kernel 6.12 --disk 4G -- lsblk
"""
import argparse
import contextlib
import json
import lzma
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import debian
from debian import ROOT, Unavailable

HERE = pathlib.Path(__file__).resolve().parent
BUILD = pathlib.Path(os.environ.get("MOORING_BUILD", ROOT / "build" / "release"))
BOOT_LIMIT_S = 300
MODULES = ["crc32c_generic", "virtio_pci", "virtio_blk", "virtio_console", "virtio_rng", "9p", "9pnet_virtio", "overlay",
           "ext4"]
PROGRAMS = ["sh", "cp", "mount", "mkdir", "insmod", "switch_root"]


class GuestFailure(AssertionError):
    """The guest did not do what was asked of it."""


# ---- the initramfs ----


class Archive:
    """A cpio archive of the "newc" form, which the kernel unpacks (its Documentation/driver-api/early-userspace)."""

    def __init__(self, path):
        self.file, self.made, self.count = open(path, "wb"), set(), 0

    def _entry(self, name, mode, data=b""):
        self.count += 1
        name = name.encode() + b"\0"
        fields = [self.count, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0]
        header = b"070701" + b"".join(b"%08x" % field for field in fields) + name
        self.file.write(header + bytes(-len(header) % 4) + data + bytes(-len(data) % 4))

    def folder(self, path):
        if path not in ("", "/", ".") and path not in self.made:
            self.folder(os.path.dirname(path))
            self.made.add(path)
            self._entry(path.lstrip("/"), 0o040755)

    def add(self, path, data, mode=0o755):
        if path not in self.made:
            self.folder(os.path.dirname(path))
            self.made.add(path)
            self._entry(path.lstrip("/"), 0o100000 | mode, data)

    def program(self, name):
        """With the libraries that ldd finds."""
        found = shutil.which(name, path="/usr/bin:/usr/sbin")
        if not found:
            raise Unavailable(f"{name} is not here")
        self.add(f"/usr/bin/{name}", pathlib.Path(found).read_bytes())
        for library in re.findall(r"(/\S+) \(0x", debian.run("ldd", found)):
            self.add(library, pathlib.Path(library).read_bytes())

    def close(self):
        self._entry("TRAILER!!!", 0)
        self.file.close()


def module_bytes(path):
    return lzma.open(path).read() if path.suffix == ".xz" else path.read_bytes()


def make_initramfs(path, kernel, **settings):
    archive, names = Archive(path), []
    for name in ("/proc", "/sys", "/dev", "/host", "/root", "/writes", "/tmp"):
        archive.folder(name)
    for name in PROGRAMS:
        archive.program(name)
    archive.add("/bin/sh", pathlib.Path("/bin/sh").read_bytes())
    for module in kernel.closure(MODULES):
        names.append(module.name.removesuffix(".xz"))
        archive.add(f"/modules/{names[-1]}", module_bytes(module))
    settings = {"modules": " ".join(names), "kernel_modules": kernel.modules, **settings}
    archive.add("/settings", "".join(f"{key}='{value}'\n" for key, value in settings.items()).encode())
    archive.add("/guest-agent.service", (HERE / "agent.service").read_text().replace("@AGENT@", str(HERE / "agent.py")).encode())
    archive.add("/init", (HERE / "init.sh").read_bytes())
    archive.close()


def shared_folders(own_root, *more):
    """Those of this machine that the guest would not see otherwise: /tmp and the like are its own."""
    hidden = ("/",) if own_root else ("/tmp/", "/run/", "/var/tmp/")
    return [folder for folder in (ROOT, BUILD.resolve(), *more) if f"{folder}/".startswith(hidden)]


# ---- the machine ----


class Job:
    """A command in the guest: its output so far, and its status once it has ended."""

    def __init__(self, machine, command):
        self.machine, self.command = machine, command
        self.output, self.status, self.ended = "", None, threading.Event()

    def wait(self, timeout_s=60):
        """(status, output). GuestFailure when the time is over or the machine ends first."""
        if not self.ended.wait(timeout_s):
            raise GuestFailure(f"{self.command}: no end within {timeout_s} s: {self.output[-500:]}")
        if self.status is None:
            raise GuestFailure(f"{self.command}: the guest ended: {self.machine.last_words()}")
        return self.status, self.output


class Guest:
    """One machine, and its disks over any number of boots. `version` is the kernel's own name of itself.

    kernel     "6.1", "6.12" or "7.x"
    disks      sizes of empty disks ("4G"): machine.disks has their paths in the guest
    packages   Debian packages to have besides what this machine has (unpacked only: no maintainer script runs)
    system     a Debian 12 with systemd and udev as root, on a disk; without it the root is this machine's files
    boot       False: the caller boots it, after it has put into machine.folder what the guest is to find there
    cpus       processors
    options    more words of QEMU's command line
    """

    def __init__(self, kernel, disks=(), packages=(), memory="2G", system=False, boot=True, cpus=2, options=()):
        if not shutil.which("qemu-system-x86_64"):
            raise Unavailable("qemu-system-x86_64 is not here: scripts/install-deps")
        self.cpus, self.options = cpus, list(options)
        self.kernel, self.memory, self.init = debian.Kernel(kernel), memory, "/sbin/init" if system else HERE / "start.sh"
        self.version = self.kernel.version
        layers = [debian.layer(packages)] if packages else []
        self.layers = " ".join(f"/host{folder}" for folder in layers)
        self._stack = contextlib.ExitStack()
        self.folder = pathlib.Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mooring-guest-")))
        self.console = self.folder / "console"
        self._process, self._channel, self._jobs, self._count = None, None, {}, 0
        self._ready = threading.Event()
        self.boot_id = None
        self._images, self.root = [], None
        if system:
            root = debian.system_root()
            image = self.folder / "root.qcow2"
            debian.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", root, image)
            self._images.append(("qcow2", image))
            self.root = "/dev/vda"
        for number, size in enumerate(disks):
            image = self.folder / f"disk{number}"
            debian.run("qemu-img", "create", "-q", "-f", "raw", image, size)
            self._images.append(("raw", image))
        self.disks = [f"/dev/vd{chr(ord('a') + place + system)}" for place in range(len(disks))]
        if boot:
            try:
                self.boot()
            except BaseException:
                self.close()
                raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- life ----

    def boot(self):
        """Start it and wait until commands can be run. Where the emulator trips over the kernel patching itself (a
        breakpoint that one processor plants and another meets), once more."""
        try:
            self._boot()
        except GuestFailure as why:
            if "Oops: int3" not in str(why):
                raise
            print(f"# {why}; once more", flush=True)
            self.power_off()
            self.console.unlink()
            self._boot()

    def _boot(self):
        initramfs = self.folder / "initramfs"
        make_initramfs(initramfs, self.kernel, layers=self.layers, root_disk=self.root or "", init=self.init,
                       shared=" ".join(map(str, shared_folders(bool(self.root), self.folder))))
        self.boot_id = None
        self._ready.clear()
        with open(self.console, "ab") as console:
            self._process = subprocess.Popen(self._command(initramfs), stdin=subprocess.DEVNULL, stdout=console,
                                             stderr=subprocess.STDOUT, start_new_session=True)
        self._channel = self._connect()
        threading.Thread(target=self._listen, args=(self._channel,), daemon=True).start()
        if not self._ready.wait(BOOT_LIMIT_S) or not self.boot_id:
            raise GuestFailure(f"Linux {self.kernel.version} does not come up: {self.last_words()}")

    def _command(self, initramfs):
        words = ["setpriv", "--pdeathsig", "KILL",  # not even a killed test leaves a guest behind
                 "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,accel=tcg",
                 "-cpu", "Nehalem", "-smp", self.cpus, "-m", self.memory, "-no-reboot", "-kernel", self.kernel.image, "-initrd",
                 initramfs, "-append", "console=ttyS0 loglevel=4 panic=-1 oops=panic no_timer_check rdinit=/init net.ifnames=0 "
                 "systemd.wants=guest-agent.service systemd.show_status=0 audit=0 mitigations=off",
                 "-serial", f"file:{self.console}", "-device", "virtio-rng-pci",
                 "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
                 "-device", "virtio-serial-pci", "-chardev",
                 f"socket,id=agent,path={self.folder}/agent,server=on,wait=off",
                 "-device", "virtserialport,chardev=agent,name=guest"]
        for form, image in self._images:
            words += ["-drive", f"file={image},format={form},if=virtio,cache=unsafe,discard=unmap"]
        return [str(word) for word in [*words, *self.options]]

    def _connect(self):
        end = time.monotonic() + 30
        while True:
            channel = socket.socket(socket.AF_UNIX)
            try:
                channel.connect(f"{self.folder}/agent")
                return channel
            except OSError as error:
                channel.close()
                if self._process.poll() is not None or time.monotonic() > end:
                    raise GuestFailure(f"QEMU does not start: {self.last_words()}") from error
                time.sleep(0.02)

    def _listen(self, channel):
        """Until QEMU is gone: then nothing waits any longer."""
        with contextlib.suppress(OSError), channel.makefile("rb") as lines:
            for line in lines:
                self._heard(json.loads(line))
        for job in self._jobs.values():
            job.ended.set()
        self._ready.set()

    def _heard(self, message):
        if "ready" in message:
            self.boot_id = message["ready"]
            self._ready.set()
            return
        job = self._jobs[message["id"]]
        job.output += message.get("output", "")
        if "status" in message:
            job.status = message["status"]
            job.ended.set()

    def wait_end(self, timeout_s=60):
        """After a command that shuts the guest down."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise GuestFailure(f"the guest is still there after {timeout_s} s: {self.last_words()}") from None
        self._channel.close()

    def power_off(self):
        """Pull the plug. The disks keep what the guest's kernel had sent them."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._channel:
            self._channel.close()

    def reboot(self):
        """Pull the plug and boot again."""
        self.power_off()
        self.boot()

    def close(self):
        self.power_off()
        self._stack.close()

    # ---- use ----

    def start(self, command, **environment):
        """Run a command of bash in the guest, in the background; its Job."""
        self._count += 1
        job = self._jobs[self._count] = Job(self, command)
        environment = {"MOORING_BUILD": str(BUILD), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": "/tmp", **environment}
        line = json.dumps({"id": self._count, "command": command, "environment": environment}) + "\n"
        self._channel.sendall(line.encode())
        return job

    def run(self, command, timeout_s=60, **environment):
        """Run it to its end; (status, output with standard error in it)."""
        return self.start(command, **environment).wait(timeout_s)

    def check(self, command, timeout_s=60, **environment):
        """Run it; its output. GuestFailure when it fails."""
        status, output = self.run(command, timeout_s, **environment)
        if status != 0:
            raise GuestFailure(f"{command}: exit {status}: {output.strip()[-2000:]}")
        return output

    def last_words(self):
        """What the console said last; where the kernel broke, what it said of that rather than its registers."""
        if not self.console.exists():
            return "nothing"
        said = self.console.read_text(errors="replace").splitlines()
        broke = [line for line in said if re.search(r"BUG|Oops|Kernel panic|RIP: 0010|blocked for more", line)]
        return " | ".join(broke[:6] or said[-8:])


def main():
    parser = argparse.ArgumentParser(description="Run a command under another kernel: its output, and its exit status.")
    parser.add_argument("--kernel", default="6.12", choices=debian.KERNELS)
    parser.add_argument("--disk", action="append", default=[], metavar="SIZE", help="an empty disk: /dev/vda and on")
    parser.add_argument("--package", action="append", default=[], help="a Debian package to have besides")
    parser.add_argument("--timeout", type=float, default=300, metavar="SECONDS")
    parser.add_argument("--console", action="store_true", help="print what the kernel said, in the end")
    parser.add_argument("command", nargs="+", help="words for bash in the guest, after --")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with Guest(arguments.kernel, disks=arguments.disk, packages=arguments.package) as machine:
            status, output = machine.run(" ".join(arguments.command), arguments.timeout)
            if arguments.console:
                output += machine.console.read_text(errors="replace")
    except (Unavailable, GuestFailure) as why:
        print(why, file=sys.stderr)
        return 125
    print(output, end="")
    return status


if __name__ == "__main__":
    sys.exit(main())
