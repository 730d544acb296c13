#!/usr/bin/python3
"""In a guest with systemd and udev: Mooring as docs/install.md installs it, a storage host and a compute node in one.
test_guest_system.py runs a phase after the other, with a shutdown and a power cut between them; a line a case."""
import glob
import json
import mmap
import os
import pathlib
import random
import re
import subprocess
import sys
import time
import traceback

POOL = "/var/lib/mooring/pool"
VOLUMES = pathlib.Path("/var/lib/mooring/node/volumes")
WAY = "ublk" if int(os.uname().release.split(".")[0]) >= 7 else "fuse"  # what "auto" stands for, once ublk_drv is loaded
SERVICES = ["mooring-target", "mooring-controller", "mooring-node"]
RULE = pathlib.Path("/usr/local/lib/udev/rules.d/60-mooring.rules")
MIB = 1 << 20


def sh(command, check=True, timeout=180):
    done = subprocess.run(["/bin/bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          stdin=subprocess.DEVNULL, timeout=timeout, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"{command}: exit {done.returncode}: {done.stdout.strip()[-800:]}")
    return done.stdout.strip()


def wait_until(condition, what, timeout_s=180):
    end = time.monotonic() + timeout_s
    while not (result := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout_s} s in vain: {what}")
        time.sleep(0.1)
    return result


def mooring(*words):
    output = sh(f"mooring -o json --retry --timeout 150 {' '.join(words)}", timeout=200)
    return json.loads(output) if output else None


# ---- a volume ----


class Volume:
    def __init__(self, name, *options):
        self.name, self.options = name, options
        self.id = mooring("volume", "create", name, "--size", "64MiB", *options)["volume_id"]
        self.target = f"/mnt/{name}"

    def mount(self):
        mooring("volume", "mount", self.name, "--target", self.target, *(["--block"] if "--block" in self.options else []))
        attach = json.loads((VOLUMES / self.id / "stage.json").read_text())["attach"]
        assert attach == ("fuse" if "attach=fuse" in self.options else WAY), f"attached by {attach}"
        return self

    def unmount(self):
        mooring("volume", "unmount", self.id, "--target", self.target)

    def pid(self, program):
        return int((VOLUMES / self.id / f"{program}.pid").read_text())

    def status(self):
        return json.loads((VOLUMES / self.id / "device" / "status.json").read_text())


class Writer:
    """Writes blocks of a file past the page cache and reads them back, as a service of its own, until it is told to end."""

    def __init__(self, path):
        name = os.path.basename(path)
        self.count_path, self.stop_path = (pathlib.Path("/run") / f"{name}.{what}" for what in ("count", "stop"))
        self.process = subprocess.Popen(["systemd-run", "--quiet", "--wait", "--collect", sys.executable, __file__, "write",
                                         path, str(self.count_path), str(self.stop_path)])

    def count(self):
        try:
            return int(self.count_path.read_text() or 0)
        except FileNotFoundError:
            return 0

    def goes_on(self):
        least = self.count() + 20
        wait_until(lambda: self.count() >= least or self.process.poll() is not None, "the writer writes")
        assert self.process.poll() is None, "the writer failed"

    def end(self):
        self.stop_path.touch()
        assert self.process.wait(180) == 0, "the writer failed"


def write(path, count_path, stop_path):
    """Random blocks, each filled with its number; all are read back in the end."""
    buffer, blocks, expected, count = mmap.mmap(-1, 4096), 1024, {}, 0
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
    os.ftruncate(file, blocks * 4096)

    def check(block):
        os.preadv(file, [buffer], block * 4096)
        assert bytes(buffer) == expected[block].to_bytes(8, "little") * 512, f"block {block} is wrong"

    while not os.path.exists(stop_path):
        block, count = random.randrange(blocks), count + 1
        buffer[:] = count.to_bytes(8, "little") * 512
        os.pwritev(file, [buffer], block * 4096)
        expected[block] = count
        if count % 8 == 0:
            os.fsync(file)
            check(random.choice(list(expected)))
        pathlib.Path(count_path).write_text(str(count))
    for block in expected:
        check(block)


# ---- phase 1 ----


def install():
    sh(f"cp -a {os.environ['GUEST_FILES']}/. / && systemctl daemon-reload && udevadm control --reload")
    if WAY == "ublk":
        sh("modprobe ublk_drv && echo ublk_drv >/etc/modules-load.d/mooring.conf")
    sh("mkdir -p /var/log/journal && mooring tls init && mooring tls issue server store-1 127.0.0.1 && "
       "mooring tls issue controller && mooring tls issue operator && mooring tls issue node worker-1")
    uuid = json.loads(sh(f"mooring -o json pool create --path {POOL} --server-id store-1 --device /dev/vdb"))["uuid"]
    sh(f"echo '/dev/vdb {POOL} xfs defaults 0 0' >>/etc/fstab && systemctl daemon-reload")
    servers = [{"id": "store-1", "address": "127.0.0.1:7443", "pool_uuid": uuid}]

    def configure(name, role, **settings):
        folder = "/etc/mooring/tls"
        tls = {"ca": f"{folder}/ca.crt", "cert": f"{folder}/{role}.crt", "key": f"{folder}/{role}.key"}
        pathlib.Path(f"/etc/mooring/{name}.json").write_text(json.dumps({**settings, "tls": tls}))

    configure("target", "server-store-1", server_id="store-1", pool=POOL, pool_uuid=uuid, listen="127.0.0.1:7443",
              portals=["127.0.0.1:3260"])
    configure("controller", "controller", servers=servers)
    configure("node", "node-worker-1", node_id="worker-1", servers=servers)
    configure("mooring", "operator", servers=servers)


def units_verify():
    said = sh("systemd-analyze verify --man=no /usr/local/lib/systemd/system/mooring*")
    assert "mooring" not in said, said


def units_start():
    sh(f"systemctl daemon-reload && systemctl enable --now {' '.join(SERVICES)}")
    wait_registered()
    for service in SERVICES:
        assert sh(f"systemctl is-active {service}") == "active"


def wait_registered():
    wait_until(lambda: "worker-1" in sh("mooring node list", check=False), "worker-1 is registered")
    wait_until(lambda: '"error"' not in sh("mooring -o json volume list", check=False), "the controller answers")


def service_killed():
    """Whatever is done to mooring-node's unit: the volume's processes live in a scope, and I/O goes on."""
    volume = Volume("killed", "--fs-type", "ext4").mount()
    kept = {program: volume.pid(program) for program in ("device", "holder")}
    for pid in kept.values():
        cgroup = pathlib.Path(f"/proc/{pid}/cgroup").read_text()
        assert "/mooring.slice/" in cgroup and ".scope" in cgroup, cgroup
    writer = Writer(f"{volume.target}/data")
    writer.goes_on()
    unit = sh("systemctl show --value -p ControlGroup mooring-node")
    for command in ("systemctl kill -s KILL --kill-who=all mooring-node", f"echo 1 >/sys/fs/cgroup{unit}/cgroup.kill",
                    "systemctl restart mooring-node", "systemctl stop mooring-node"):
        before = sh("systemctl show --value -p MainPID mooring-node")
        sh(command, check=False)  # systemd calls a process that is just going, of which the cgroup tells 0, an I/O error
        wait_until(lambda old=before: sh("systemctl show --value -p MainPID mooring-node") != old, f"{command}: it ended")
        writer.goes_on()
        for program, pid in kept.items():
            assert volume.pid(program) == pid and os.path.exists(f"/proc/{pid}/fd"), f"{command}: {program} ended"
        sh("systemctl start mooring-node")
        wait_registered()
    volume.mount()
    assert volume.status()["generation"] == 1, "it was not adopted"
    writer.end()
    volume.unmount()


def settle(device):
    sh(f"udevadm trigger --action=change {device} && udevadm settle && sleep 2 && udevadm settle")


def stays_off(make, end, active):
    """What `make` puts on a volume is not activated when the volume appears, and would be without our rule: it knows fuse's
    devices, and cannot know ublk's."""
    volume = Volume(f"blk{random.randrange(1 << 30)}", "--block", "attach=fuse").mount()
    sh(make.format(device=volume.status()["block_device"]))
    volume.unmount()
    volume.mount()
    device = volume.status()["block_device"]
    settle(device)
    assert not sh(active, check=False), f"activated: {sh(active, check=False)}"
    aside = RULE.with_suffix(".aside")
    RULE.rename(aside)
    try:
        sh("udevadm control --reload")
        settle(device)
        wait_until(lambda: sh(active, check=False), "without the rule, the host takes what it sees", timeout_s=60)
    finally:
        aside.rename(RULE)
        sh("udevadm control --reload")
        sh(end.format(device=device), check=False)
    volume.unmount()


def lvm_stays_off():
    stays_off("pvcreate -q {device} && vgcreate -q ours {device} && lvcreate -q -Wn -L 8M -n inner ours && vgchange -q -an ours",
              "vgchange -an ours", "dmsetup ls 2>/dev/null | grep ours")


def md_stays_off():
    stays_off("mdadm --create /dev/md/ours --run --level=1 --force --raid-devices=1 --metadata=1.2 {device} && "
              "mdadm --stop /dev/md/ours", "mdadm --stop --scan", "grep ^md /proc/mdstat")


# ---- a shutdown, and a power cut ----


def before_shutdown():
    """Answered, and not yet written back: the file system's unmounting has to bring it over. The storage server is on this
    host, so whatever reads the volumes' devices late (LVM's last look at all of them) would wait for a server that is gone,
    if the devices were still there."""
    volume = Volume("kept", "--fs-type", "ext4").mount()
    Writer(f"{volume.target}/busy").goes_on()
    content = os.urandom(8 * MIB)
    pathlib.Path("/root/content").write_bytes(content)
    pathlib.Path(f"{volume.target}/content").write_bytes(content)
    Volume("raw", "--block").mount()  # nothing of it is mounted with a file system: its device has to be ended all the same
    # Who takes his time to end is still at work when systemd unmounts, in vain: it tries once.
    late = f"{volume.target}/late"
    sh("systemd-run --quiet --collect bash -c "
       f"'exec >{late}; trap \"sleep 5; echo late; exit\" TERM; while :; do sleep 0.2; done'")
    wait_until(lambda: os.path.exists(late), "the late user is there")


def is_unclean(volume):
    """Whether its file system's journal has to be recovered: by the superblock, since e2fsck does it before any mounting."""
    return "needs_recovery" in sh(f"dumpe2fs -h {POOL}/volumes/{volume.id}/data")


def nothing_left():
    """At a new boot all of ours is swept: state, loop devices, mounts."""
    wait_registered()
    wait_until(lambda: not list(VOLUMES.glob("*")), f"state is swept: {list(VOLUMES.glob('*'))}")
    backing = [pathlib.Path(name).read_text() for name in glob.glob("/sys/block/loop*/loop/backing_file")]
    assert not [name for name in backing if name.strip().endswith("/volume")], backing
    assert not glob.glob("/dev/ublkb*"), "a ublk device"
    assert "/volumes/" not in pathlib.Path("/proc/self/mountinfo").read_text()


def shutdown_was_clean():
    nothing_left()
    volume = Volume("kept", "--fs-type", "ext4")
    assert not is_unclean(volume), "the file system was not unmounted, or not all of it was flushed"
    volume.mount()
    assert pathlib.Path(f"{volume.target}/content").read_bytes() == pathlib.Path("/root/content").read_bytes()
    assert pathlib.Path(f"{volume.target}/late").read_text() == "late\n", "what was written when the shutdown had begun"
    said = sh("journalctl -b -1 -o cat", check=False)
    wrong = r"Failed unmounting (\S*mooring|mnt-raw)|timed out|I/O error|is left as it is"
    late = [line for line in said.splitlines() if re.search(wrong, line) and not re.search("clocksource|ttyS0", line)]
    assert not late, late[:3]
    ended = re.findall(r"volume (\S+): its device has ended", said)
    assert len(ended) == 2, f"ended in good order: {ended}"


def before_cut():
    """A mounted volume with flushed data, and one half-way through its Stage."""
    volume = Volume("kept", "--fs-type", "ext4").mount()
    with open(f"{volume.target}/flushed", "wb") as file:
        file.write(b"flushed" * 1000)
        file.flush()
        os.fsync(file.fileno())
    half = Volume("half", "--fs-type", "ext4")
    subprocess.Popen(["mooring", "volume", "mount", "half", "--target", half.target])
    wait_until((VOLUMES / half.id / "holder.pid").exists, "the Stage is half done")


def swept_after_cut():
    nothing_left()
    volume = Volume("kept", "--fs-type", "ext4")
    assert is_unclean(volume), "a cut leaves a journal to recover: else shutdown_was_clean could not fail"
    volume.mount()
    assert pathlib.Path(f"{volume.target}/flushed").read_bytes() == b"flushed" * 1000
    half = Volume("half", "--fs-type", "ext4").mount()
    pathlib.Path(f"{half.target}/file").write_text("usable")
    for one in (half, volume):
        one.unmount()


PHASES = {
    "run": [install, units_verify, units_start, service_killed, lvm_stays_off, md_stays_off, before_shutdown],
    "shut": [shutdown_was_clean, before_cut],
    "cut": [swept_after_cut],
}
UNREPORTED = (install, before_shutdown, before_cut)  # they prepare


def run(phase):
    failed = False
    for case in PHASES[phase]:
        try:
            case()
        except Exception as why:  # whatever it is, the next case runs all the same
            failed = True
            traceback.print_exc(file=sys.stdout)
            print(sh("journalctl -b -n 25 -o short-monotonic --no-pager", check=False))
            print(f"FAIL {case.__name__}: {str(why).splitlines()[0] if str(why) else type(why).__name__}", flush=True)
        else:
            if case not in UNREPORTED:
                print(f"PASS {case.__name__}", flush=True)
    sys.stdout.flush()
    os._exit(1 if failed else 0)  # a writer goes on until the machine's shutdown ends it


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(*sys.argv[2:])
    else:
        run(sys.argv[1])
