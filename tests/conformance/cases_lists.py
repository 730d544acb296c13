"""Lists in pages: ListVolumes, ListSnapshots, ControllerListVolumeHealth."""
from rules import rule
from stack import equal, refused

LISTS = {"ListVolumes": lambda entry: entry.volume.volume_id, "ListSnapshots": lambda entry: entry.snapshot.snapshot_id,
         "ControllerListVolumeHealth": lambda entry: entry.volume_id}


def pages(stack, rpc, max_entries):
    token, ids, count = "", [], 0
    while True:
        page = stack.call(rpc, max_entries=max_entries, starting_token=token)
        assert len(page.entries) <= max_entries, "more entries than were asked for"
        ids += [LISTS[rpc](entry) for entry in page.entries]
        token, count = page.next_token, count + 1
        if not token:
            return ids, count
        assert len(token.encode()) <= 128, token


def _paging(rpc):
    def whole(stack):
        ids = [LISTS[rpc](entry) for entry in stack.call(rpc).entries]
        equal(len(ids), len(set(ids)), "each once")
        for max_entries in (1, 3, len(ids) or 1, len(ids) + 1):
            found, count = pages(stack, rpc, max_entries)
            equal(found, ids, f"pages of {max_entries}")
            equal(count, max(1, -(-len(ids) // max_entries)), "pages")

    def token(stack):
        for wrong in ("wrong", "v1:", "v1:../..", "v1:s1.zz", "1"):
            refused("ABORTED", lambda: stack.call(rpc, starting_token=wrong))

    def negative(stack):
        refused("INVALID_ARGUMENT", lambda: stack.call(rpc, max_entries=-1), "max_entries")

    rule(f"{rpc}.pages",
         "At most `max_entries` (0: any number) on a page, `next_token` where there is more, and the pages together are "
         "the whole, each entry once.")(whole)
    rule(f"{rpc}.bad-token", "A starting token that no page gave: ABORTED.", f"{rpc} Errors")(token)
    rule(f"{rpc}.negative", "`max_entries` below 0: INVALID_ARGUMENT.")(negative)


for _rpc in LISTS:
    _paging(_rpc)


@rule("ListVolumes.all", "Every volume of the plugin is listed, and none that is deleted.")
def list_all(stack):
    made = [stack.create().volume_id for _ in range(3)]
    stack.csi.DeleteVolume(volume_id=made[2])
    found = [entry.volume.volume_id for entry in stack.csi.ListVolumes().entries]
    assert set(made[:2]) <= set(found) and made[2] not in found, found
    held = {volume.volume_id for target in stack.targets for volume in target.controller.ListVolumes().volumes}
    equal(set(found), held, "what the storage servers hold")


@rule("ListVolumes.published-nodes", "Each entry has a status, with the nodes that the volume is published to.",
      needs=("controller:LIST_VOLUMES_PUBLISHED_NODES",))
def list_published(stack):
    volume_id = stack.create().volume_id
    stack.csi.publish(volume_id, "n2")
    entries = {entry.volume.volume_id: entry for entry in stack.csi.ListVolumes().entries}
    assert all(entry.HasField("status") for entry in entries.values()), "an entry without status"
    equal(list(entries[volume_id].status.published_node_ids), ["n2"], "nodes")
    stack.csi.ControllerUnpublishVolume(volume_id=volume_id)


@rule("ListVolumes.same-volume", "An entry's volume is the one that CreateVolume answered.")
def list_same(stack):
    volume = stack.create(parameters={"fsType": "xfs"})
    equal([entry.volume for entry in stack.csi.ListVolumes().entries if entry.volume.volume_id == volume.volume_id], [volume],
          "the entry")


@rule("ListVolumes.token-lasts", "A token stays good while volumes come and go, and when the controller is started anew.")
def list_token_lasts(stack):
    page = stack.csi.ListVolumes(max_entries=2)
    ids = [entry.volume.volume_id for entry in stack.csi.ListVolumes().entries]
    stack.controller.restart()
    stack.csi.connect()
    after = stack.csi.ListVolumes(max_entries=1, starting_token=page.next_token, wait_for_ready=True)
    equal(after.entries[0].volume.volume_id, ids[2], "the next")
