"""A disk's journal (disk_journal.h), and the disks that a power loss at a moment of it may leave: all that was flushed,
and of what was not, a random part in no order. A block of 4 KiB survives whole or not at all; where a range is given, a
sector of 512 bytes in it."""
import ctypes
import os
import shutil
import struct
import subprocess

BLOCK, SECTOR = 4096, 512
HEAD = struct.Struct("<cQQ")


class Journal:
    """The records of a file, in order: (kind, offset, length, where the data is in the file)."""

    def __init__(self, path):
        self.path, self.records = path, []
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            at = file.seek(0)
            while at + HEAD.size <= size:
                file.seek(at)
                kind, offset, length = HEAD.unpack(file.read(HEAD.size))
                at += HEAD.size
                data_length = length if kind == b"w" else 0
                if at + data_length > size:
                    break  # cut off in the middle of it
                self.records.append((kind, offset, length, at))
                at += data_length

    def marks(self):
        """{number: index of its record}."""
        return {offset: index for index, (kind, offset, _, _) in enumerate(self.records) if kind == b"m"}


class Disks:
    """Makes them, for moments that only grow: `stable` holds what was flushed until the last one. torn: the bytes, begin
    and end, where sectors are lost one by one."""

    def __init__(self, journal, folder, size_bytes, torn=(0, 0)):
        self.journal, self.stable, self.next, self.torn = journal, folder / "stable.img", 0, torn
        with open(self.stable, "wb") as image:
            image.truncate(size_bytes)

    def after(self, index, path, choice):
        """The disk as it may be when the power goes after so many records. How many blocks were lost."""
        records = self.journal.records
        last = max((i for i in range(self.next, index) if records[i][0] == b"f"), default=None)
        with open(self.journal.path, "rb") as source, open(self.stable, "r+b") as image:
            if last is not None:
                for i in range(self.next, last):
                    self._apply(source, image, records[i])
                self.next = last + 1
        subprocess.run(["cp", "--sparse=always", str(self.stable), str(path)], check=True)
        lost, keep = 0, choice.random()
        with open(self.journal.path, "rb") as source, open(path, "r+b") as image:
            for i in range(self.next, index):
                lost += self._apply(source, image, records[i], choice, keep)
        return lost

    def _unit(self, at):
        return SECTOR if self.torn[0] <= at < self.torn[1] else BLOCK

    def _apply(self, source, image, record, choice=None, keep=1.0):
        """All of the record or, by choice, a part of its blocks; how many were left out."""
        kind, offset, length, at = record
        if kind not in (b"w", b"d"):
            return 0
        begin, lost = offset, 0
        while begin < offset + length:
            end = offset + length
            if choice:
                end = min(end, begin - begin % self._unit(begin) + self._unit(begin))
            if choice and choice.random() >= keep:
                lost += 1
            elif kind == b"w":
                source.seek(at + begin - offset)
                image.seek(begin)
                image.write(source.read(end - begin))
            else:
                punch(image, begin, end - begin)
            begin = end
        return lost


def punch(image, offset, length):
    """It reads as zeroes from now on."""
    image.flush()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(image.fileno(), 3, ctypes.c_long(offset), ctypes.c_long(length)):  # a hole, size kept
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def log_of(device):
    """Where XFS has its log, in bytes: its sectors are what it makes of the disk's, and it must do with torn records."""
    said = subprocess.run(["xfs_db", "-r", "-c", "sb 0", "-c", "p logstart logblocks blocksize agblocks agblklog sectsize",
                           device],
                          check=True, capture_output=True, text=True).stdout
    block = {name: int(value, 0) for name, _, value in (line.partition(" = ") for line in said.splitlines())}
    if block["sectsize"] != SECTOR:
        raise AssertionError(f"sectors of {block['sectsize']} bytes")
    group, within = block["logstart"] >> block["agblklog"], block["logstart"] & ((1 << block["agblklog"]) - 1)
    begin = (group * block["agblocks"] + within) * block["blocksize"]
    return begin, begin + block["logblocks"] * block["blocksize"]


def needs():
    """What is missing here, or None."""
    return next((name for name in ("xfs_repair", "xfs_db", "losetup") if not shutil.which(name)), None)
