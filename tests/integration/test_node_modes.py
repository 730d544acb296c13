#!/usr/bin/python3
"""The seven access modes on a node, mounted and as block devices: which nodes, which paths, what may be written, and the
refusals of the spec's second table (CSI 1.13, NodePublishVolume)."""
import mmap
import os
import sys

from controller_stack import equal, status
from node_fixture import run_all

ONE_PATH = ("SINGLE_NODE_WRITER", "SINGLE_NODE_READER_ONLY", "SINGLE_NODE_SINGLE_WRITER")
READERS = ("SINGLE_NODE_READER_ONLY", "MULTI_NODE_READER_ONLY")
SHARED_WRITERS = ("MULTI_NODE_SINGLE_WRITER", "MULTI_NODE_MULTI_WRITER")
SEVERAL_NODES = ("MULTI_NODE_READER_ONLY", "MULTI_NODE_SINGLE_WRITER", "MULTI_NODE_MULTI_WRITER")
MODES = ("SINGLE_NODE_WRITER", "SINGLE_NODE_MULTI_WRITER", *SEVERAL_NODES, *ONE_PATH[1:])


def with_mode(volume, mode):
    """The volume, to be attached in another mode."""
    volume.capability = volume.csi.capability(mode, block=volume.block)
    return volume


def filled(stack, block):
    """A volume with data in it, on no node."""
    node, volume = stack.n1, stack.volume(block=block)
    target = node.use(volume)
    path = target if block else target / "file"
    with open(path, "r+b" if block else "wb") as file:
        file.write(b"d" * 4096)
        file.flush()
        os.fsync(file.fileno())
    node.leave(volume)
    return volume


def writes(path, block):
    try:
        fd = os.open(path if block else path / "new", os.O_WRONLY | (0 if block else os.O_CREAT))
    except OSError:
        return False
    try:
        os.write(fd, b"e" * 4096)
        os.fsync(fd)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def reads(path, block):
    with open(path if block else path / "file", "rb") as file:
        return file.read(4096)


def use_in(stack, volume, mode):
    node, readonly = stack.n1, mode in READERS
    with_mode(volume, mode)
    target = node.use(volume)
    equal(len(reads(target, volume.block)), 4096, f"{mode}: read")
    equal(writes(target, volume.block), not readonly, f"{mode}: written")
    node.publish(volume)  # T1 = T2, P1 = P2
    if mode in ONE_PATH:
        status("FAILED_PRECONDITION", node.publish, volume, "b", contains=f"{mode} allows one path only")
    else:
        node.publish(volume, "b")
        equal(writes(node.path(volume, "b"), volume.block), not readonly, f"{mode}: written at the second path")
        node.unpublish(volume, "b")
    other = volume.csi.capability([one for one in MODES[:2] if one != mode][0], block=volume.block)
    status("ALREADY_EXISTS", node.publish, volume, volume_capability=other, contains=mode)  # T1 = T2, P1 != P2
    status("FAILED_PRECONDITION", node.publish, volume, "b", volume_capability=other, contains=mode)
    status("ALREADY_EXISTS", node.stage, volume, volume_capability=other, contains=mode)
    on_other_node(stack, volume, mode)
    node.leave(volume)


def on_other_node(stack, volume, mode):
    node, context = stack.n2, volume.context
    if mode not in SEVERAL_NODES:
        status("FAILED_PRECONDITION", volume.publish, node)
        return
    with_mode(volume, mode).publish(node, readonly=mode == "MULTI_NODE_SINGLE_WRITER")
    node.stage(volume)
    node.publish(volume)
    equal(len(reads(node.path(volume), volume.block)), 4096, f"{mode}: read on the second node")
    equal(writes(node.path(volume), volume.block), mode == "MULTI_NODE_MULTI_WRITER", f"{mode}: written on the second node")
    node.leave(volume)
    volume.context = context


def test_mounted(stack):
    volume = filled(stack, block=False)
    for mode in MODES:
        if mode not in SHARED_WRITERS:
            use_in(stack, volume, mode)


def test_block(stack):
    volume = filled(stack, block=True)
    for mode in MODES:
        use_in(stack, volume, mode)


def test_refused(stack):
    """What a mounted volume cannot be, whatever the controller let through; readers of an attachment that writes."""
    node, volume = stack.n1, stack.volume().publish(stack.n1)
    for mode in SHARED_WRITERS:
        capability = volume.csi.capability(mode, block=False)
        for call in (node.stage, node.publish):
            status("FAILED_PRECONDITION", call, volume, volume_capability=capability, contains="block volumes")
    for mode in READERS:
        capability = volume.csi.capability(mode, block=False)
        status("FAILED_PRECONDITION", node.stage, volume, volume_capability=capability, contains="for writing")
    capability = volume.csi.capability(block=False)
    capability.access_mode.mode = 99
    for call in (node.stage, node.publish):
        status("INVALID_ARGUMENT", call, volume, volume_capability=capability, contains="99")
    volume.unpublish(node)


def directly(path, data=None):
    """Write it, or read what is there, past every cache."""
    page = mmap.mmap(-1, 4096)
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        if data:
            page.write(data)
            os.pwritev(fd, [page], 8 * 4096)
        else:
            os.preadv(fd, [page], 8 * 4096)
    finally:
        os.close(fd)
    return page[:]


def test_block_writers_see_each_other(stack):
    """Several writers of one block volume on two nodes: what one wrote, the other reads."""
    volume = with_mode(filled(stack, block=True), "MULTI_NODE_MULTI_WRITER")
    paths = []
    for node in (stack.n1, stack.n2):
        volume.publish(node)
        node.stage(volume)
        node.publish(volume)
        paths.append(node.path(volume))
    for number, path in enumerate(paths):
        data = bytes([65 + number]) * 4096
        directly(path, data)
        for reader in paths:
            equal(directly(reader), data, f"what {reader} reads")
    for node in (stack.n1, stack.n2):
        node.unpublish(volume)
        node.unstage(volume)
        volume.unpublish(node)


if __name__ == "__main__":
    sys.exit(run_all(globals(), prefix="node_modes"))
