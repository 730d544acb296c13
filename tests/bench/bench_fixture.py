"""What the benchmarks share: the disk, and the peer that they compare with."""
import pathlib

import harness

MIB = 1 << 20


def take_zram(scratch, size_bytes=4 << 30):
    """/dev/zram0, sized and freed again at the end; None where there is none or it is taken."""
    size = pathlib.Path("/sys/block/zram0/disksize")
    if not size.exists() or size.read_text(encoding="ascii").strip() != "0":
        return None
    size.write_text(str(size_bytes), encoding="ascii")
    scratch.callback(pathlib.Path("/sys/block/zram0/reset").write_text, "1", encoding="ascii")
    return "/dev/zram0"


HALT_POLL = pathlib.Path("/sys/module/haltpoll/parameters/guest_halt_poll_ns")


def add_halt_poll_option(parser):
    parser.add_argument("--halt-poll", type=int, metavar="US",
                        help="have idle processors look for work that long before they halt: in a virtual machine a "
                             "wake-up from the halt costs tens of microseconds (default: as the machine has it)")


def set_halt_poll(scratch, poll_us):
    """Of this (virtual) machine, until the end."""
    if poll_us is None:
        return
    if not HALT_POLL.exists():
        raise harness.Skip(f"--halt-poll: the idle processors of this machine are not haltpoll's ({HALT_POLL})")
    scratch.callback(HALT_POLL.write_text, HALT_POLL.read_text(encoding="ascii"), encoding="ascii")
    HALT_POLL.write_text(str(1000 * poll_us), encoding="ascii")
    print(f"idle processors look for work for {poll_us} µs before they halt")


def fill(path, size_bytes):
    """Blocks that were never written would be answered without the disk."""
    harness.run(harness.program("fio"), "--name=fill", "--zero_buffers", f"--filename={path}", "--direct=1",
                "--rw=write", "--bs=1M", f"--size={size_bytes}", timeout=300)


class Nbd:
    """nbdkit's file plugin on the pool's file system, nbdfuse, and a loop device on its file."""
    name = "nbdkit+nbdfuse"

    def __init__(self, scratch, pool, size_bytes):
        backing, mount = pool.path / "nbd.img", scratch.path / "nbd"
        with open(backing, "wb") as file:
            file.truncate(size_bytes)
        mount.mkdir()
        port = harness.free_port()
        scratch.start(harness.program("nbdkit"), "--foreground", "--ipaddr", "127.0.0.1", "--port", port, "file",
                      backing, log=scratch.path / "nbdkit.log")
        harness.wait_until(lambda: harness.run("nbdinfo", "--size", f"nbd://127.0.0.1:{port}",
                                               check=False).returncode == 0, "nbdkit serves")
        process = scratch.start(harness.program("nbdfuse"), mount / "volume", f"nbd://127.0.0.1:{port}",
                                log=scratch.path / "nbdfuse.log")
        scratch.callback(harness.run, "umount", mount, check=False)
        harness.wait_until(lambda: process.poll() is None and (mount / "volume").exists(), "nbdfuse serves")
        self.path = harness.run("losetup", "--find", "--show", "--direct-io=on", mount / "volume").stdout.strip()
        scratch.callback(harness.run, "losetup", "--detach", self.path, check=False)
