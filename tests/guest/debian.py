"""Debian packages that a guest needs and this machine need not have installed: kernels of three releases, and programs
such as open-iscsi's. They come from the mirror that this machine's own apt sources name, verified by apt with Debian's
keys, and are unpacked under build/guest/, once; nothing is installed.
"""
import os
import pathlib
import re
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "guest"
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
KERNELS = {"6.1": "bookworm", "6.12": "bookworm-backports", "7.x": "trixie-backports"}


class Unavailable(Exception):
    """What cannot be had here, and why."""


def run(*command, timeout=900, **options):
    """Its standard output. Unavailable carries the last line that it said."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          stdin=subprocess.DEVNULL, timeout=timeout, check=False, **options)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        raise Unavailable(f"{command[0]}: {said[-1]}")
    return done.stdout


def mirror():
    """The URI that this machine's apt takes Debian itself from: the one whose Release file says so."""
    indexes = run("apt-get", "indextargets", "--format", "$(SITE)|$(REPO_URI)|$(CODENAME)|$(ORIGIN)", "Created-By: Packages")
    for line in indexes.splitlines():
        _, uri, codename, origin = line.split("|")
        if (codename, origin) == ("bookworm", "Debian"):
            return uri.rstrip("/")
    raise Unavailable("this machine's apt sources name no mirror of Debian 12")


class Apt:
    """apt with lists of its own under build/guest/apt/, and this machine's word on what is installed."""

    def __init__(self):
        self.folder = CACHE / "apt"
        for name in ("lists/partial", "archives/partial", "state"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.options = [f"-oDir::Etc::SourceList={self.folder}/sources.list", "-oDir::Etc::SourceParts=/dev/null",
                        f"-oDir::State={self.folder}/state", f"-oDir::State::Lists={self.folder}/lists",
                        "-oDir::State::status=/var/lib/dpkg/status", f"-oDir::Cache={self.folder}",
                        "-oAPT::Sandbox::User=root", "-oAcquire::Retries=2"]

    def update(self):
        """Each suite by itself: one that the mirror lacks must not take the others with it."""
        sources = self.folder / "sources.list"
        uri, usable = mirror(), []
        for suite in KERNELS.values():
            line = f"deb [signed-by={KEYS}] {uri} {suite} main\n"
            sources.write_text("".join(usable) + line)
            try:
                run("apt-get", *self.options, "-q", "-oAPT::Update::Error-Mode=any", "update")
                usable.append(line)
            except Unavailable:
                sources.write_text("".join(usable))

    def depends(self, package, suite):
        """What the newest version of a package in that suite depends on."""
        for record in run("apt-cache", *self.options, "show", package).split("\n\n"):
            fields = dict(re.findall(r"^([A-Z][A-Za-z-]*): (.*)$", record, re.M))
            backport = {"bookworm-backports": "~bpo12", "trixie-backports": "~bpo13"}.get(suite)
            version = fields.get("Version", "")
            if (backport in version) if backport else ("~bpo" not in version and version):
                return re.findall(r"([a-z0-9.+-]+)(?: \([^)]*\))?", fields.get("Depends", ""))
        raise Unavailable(f"{package} is not in {suite}")

    def missing(self, packages):
        """Those packages and what of their dependencies this machine lacks."""
        plan = run("apt-get", *self.options, "-s", "--no-install-recommends", "-t", "bookworm", "install", *packages)
        return re.findall(r"^Inst (\S+)", plan, re.M)

    def unpack(self, packages, folder):
        """Aside first, so that an interrupted download is never taken for a whole one."""
        aside = folder.with_name(f"{folder.name}.{os.getpid()}")
        shutil.rmtree(aside, ignore_errors=True)
        (aside / "deb").mkdir(parents=True)
        try:
            for package in packages:
                run("apt-get", *self.options, "-q", "download", package, cwd=aside / "deb")
            for archive in (aside / "deb").glob("*.deb"):
                run("dpkg-deb", "-x", archive, aside)
            shutil.rmtree(aside / "deb")
            merge_usr(aside)
            os.rename(aside, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def merge_usr(folder):
    """/bin, /sbin and /lib are links into /usr on Debian 12: a folder of that name in a layer would hide the link."""
    for name in ("bin", "sbin", "lib", "lib64"):
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            shutil.copytree(folder / name, folder / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(folder / name)


def fresh_apt():
    apt = Apt()
    apt.update()
    return apt


class Kernel:
    """One of Debian's kernels: its image, and the folder that has its modules, by version."""

    def __init__(self, name):
        self.name, self.folder = name, CACHE / "kernels" / name
        if not self.folder.exists():
            self._fetch()
        self.modules = self.folder / "usr" / "lib" / "modules"
        self.version = next(self.modules.iterdir()).name
        images = [self.folder / "boot" / f"vmlinuz-{self.version}", self.modules / self.version / "vmlinuz"]
        self.image = next(image for image in images if image.exists())
        if not (self.modules / self.version / "modules.dep").exists():
            run("depmod", "-b", self.folder / "usr", self.version)

    def _fetch(self):
        """Debian splits a kernel into packages of its version's name, from 7.x on into more than one."""
        suite, apt, wanted = KERNELS[self.name], fresh_apt(), ["linux-image-amd64"]
        for package in wanted:
            for other in apt.depends(package, suite):
                if re.match(r"linux-((image|modules|binary|base)-\d|modules-amd64)", other) and other not in wanted:
                    wanted.append(other)
        apt.unpack([package for package in wanted if re.search(r"-\d", package)], self.folder)

    def closure(self, names):
        """Files of the modules of these names, with what they depend on before them; built-in ones are left out."""
        folder = self.modules / self.version
        files, needs = {}, {}
        for line in (folder / "modules.dep").read_text().splitlines():
            path, _, rest = line.partition(":")
            files[pathlib.Path(path).name.partition(".")[0].replace("-", "_")] = path
            needs[path] = rest.split()
        ordered = []
        for name in names:
            if name in files:
                for path in [*reversed(needs[files[name]]), files[name]]:
                    if path not in ordered:
                        ordered.append(path)
        return [folder / path for path in ordered]


def layer(packages):
    """A folder with these packages, and those of their dependencies that this machine lacks, unpacked."""
    folder = CACHE / "layers" / "+".join(sorted(packages))
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        apt = fresh_apt()
        apt.unpack(apt.missing(packages), folder)
    return folder


SYSTEM = ["systemd-sysv", "udev", "dbus", "python3", "kmod", "iproute2", "procps", "lvm2", "mdadm", "xfsprogs", "e2fsprogs",
          "fdisk", "libgrpc29", "libprotobuf-c1", "libiscsi7", "liburing2", "libjansson4", "openssl"]


def system_root():
    """The image of a Debian 12 with systemd, udev, LVM and MD, and the libraries of our programs: made once."""
    image = CACHE / "system.img"
    if image.exists():
        return image
    if not shutil.which("debootstrap"):
        raise Unavailable("debootstrap is not here: scripts/install-deps")
    folder = CACHE / f"system.{os.getpid()}"
    half = folder.with_suffix(".half")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        run("debootstrap", "--variant=minbase", f"--include={','.join(SYSTEM)}", "bookworm", folder, mirror())
        shutil.rmtree(folder / "var" / "cache" / "apt", ignore_errors=True)
        (folder / "etc" / "hostname").write_text("guest\n")
        (folder / "etc" / "hosts").write_text("127.0.0.1 localhost guest\n")
        run("mke2fs", "-q", "-t", "ext4", "-d", folder, half, "3G")
        os.rename(half, image)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        half.unlink(missing_ok=True)
    return image
