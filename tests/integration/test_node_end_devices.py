#!/usr/bin/python3
"""mooring-node --end-devices, as a host's shutdown calls it: what is used is left, what is not is unmounted and ended in good
order, a dead device's answered writes included. When systemd calls it is proven in a guest."""
import mmap
import os
import signal
import sys
import threading

import harness
from controller_stack import equal
from node_fixture import Background, is_mounted, loop_devices, run_all

BLOCK = 4096


def end_devices(node, timeout="20s"):
    """Exit status and log, with mooring-node itself ended before."""
    if node.process.poll() is None:
        node.process.send_signal(signal.SIGTERM)
        node.process.wait(30)
    done = harness.run(harness.program("mooring-node"), "--config", node.folder / "node.json", "--end-devices",
                       "--timeout", timeout, check=False, timeout=90)
    return done.returncode, done.stdout


def nothing_is_left(node, volume):
    for program in ("device", "holder"):
        equal(node.pid(volume, program), None, program)
    assert not [name for name, backing in loop_devices().items() if volume.id in backing], loop_devices()
    assert not is_mounted(node.volume_dir(volume) / "device" / "fuse")


def after_reboot(node):
    node.new_boot()
    node.start()


def pattern():
    return b"Mooring\n" * (BLOCK // 8)


class Writer(threading.Thread):
    """Writes one block, and closes."""

    def __init__(self, device):
        super().__init__(daemon=True)
        self.device, self.written = device, None
        self.start()

    def run(self):
        buffer = mmap.mmap(-1, BLOCK)
        buffer[:] = pattern()
        try:
            self.written = os.pwritev(self.device, [buffer], 0)
        except OSError as why:
            self.written = str(why)
        finally:
            os.close(self.device)


def test_in_use(stack):
    """A volume that is in use is left, and goes on; once its user has gone it is unmounted and ended. Again: nothing to do."""
    volume = stack.volume(fs_type="ext4")
    path = stack.n1.use(volume)
    with open(path / "file", "w", encoding="ascii") as file:
        status, said = end_devices(stack.n1, timeout="1s")
        equal(status, 1, "exit status")
        assert "is left as it is" in said and "in use" in said, said
        file.write("still served")
        file.flush()
        os.fsync(file.fileno())
    status, said = end_devices(stack.n1)
    equal(status, 0, said)
    assert f"{volume.id}: its device has ended" in said, said
    nothing_is_left(stack.n1, volume)
    assert not is_mounted(path) and not is_mounted(stack.n1.staging(volume))
    equal(end_devices(stack.n1)[0], 0, "exit status of a repeat")
    after_reboot(stack.n1)
    stack.n1.stage(volume)
    stack.n1.publish(volume)
    equal((path / "file").read_text(), "still served", "the file")
    stack.n1.leave(volume)


def test_dead_device(stack):
    """A write waits for a device that died, and mooring-node is gone: a successor brings it over, then the volume ends."""
    volume = stack.volume(fs_type="ext4")
    path = stack.n1.use(volume)
    file = os.open(path / "file", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
    stack.target.kill()
    writer = Writer(file)
    harness.wait_until(lambda: stack.n1.status(volume)["state"] == "waiting", "the device waits for its server")
    stack.n1.process.send_signal(signal.SIGTERM)
    stack.n1.process.wait(30)
    stack.n1.kill_device(volume)
    assert writer.is_alive(), "the write does not wait"
    stack.target.start()
    status, said = end_devices(stack.n1)
    equal(status, 0, said)
    writer.join(30)
    equal(writer.written, BLOCK, "written")
    nothing_is_left(stack.n1, volume)
    after_reboot(stack.n1)
    stack.n1.stage(volume)
    stack.n1.publish(volume)
    equal((path / "file").read_bytes(), pattern(), "what was written")
    stack.n1.leave(volume)


def test_dead_device_in_format(stack):
    """What an mkfs has in flight that was cut off is not brought over: the volume stays "formatting", for the next Stage."""
    node, volume = stack.n1, stack.volume(fs_type="ext4").publish(stack.n1)
    said = node.folder / "said"
    tool = node.tools / "mkfs.ext4"
    tool.write_text(
        "#!/usr/bin/python3\nimport mmap, os, sys\nfd = os.open(sys.argv[-1], os.O_RDWR | os.O_DIRECT)\n"
        "page = mmap.mmap(-1, 4096)\npage.write(b'half' * 1024)\nat = 0\n"
        f"while True:\n    os.pwrite(fd, page, 8192 * (at % 4096))\n    at += 1\n    open('{said}', 'w').close()\n")
    tool.chmod(0o755)
    call = Background(node.stage, volume)
    harness.wait_until(said.exists, "mkfs writes")
    node.kill()
    node.kill_device(volume)
    call.status()
    tool.unlink()
    status, text = end_devices(node)
    equal(status, 0, text)
    equal(volume.content(), "FORMATTING", "content")
    nothing_is_left(node, volume)
    after_reboot(node)
    node.stage(volume)
    equal(volume.content(), "DATA", "content after the next Stage")
    node.publish(volume)
    node.leave(volume)


if __name__ == "__main__":
    sys.exit(run_all(globals(), "node_end"))
