"""What the tests of mooring-target share: volumes, attachments, sessions on a running target."""
import secrets

import raw_iscsi

MIB = 1 << 20
WRITER, MULTI_WRITER = 1, 5  # access modes


class Volume:
    """A new volume; attach() and login() as a node."""

    def __init__(self, target, size_bytes=16 * MIB, name=None, **fields):
        self.target = target
        self.id = f"{target.server_id}.{secrets.token_hex(8)}"
        self.name = name or f"test-{self.id[-16:]}"
        target.controller.ClaimName(name=self.name, volume_id=self.id)
        target.controller.CreateVolume(volume_id=self.id, name=self.name, size_bytes=size_bytes,
                                       **fields)
        self.iqn = f"iqn.2026-11.storage.mooring:{self.id}"

    def attach(self, node="n1", mode=WRITER, readonly=False):
        register(self.target, node)
        return self.attach_only(node, mode, readonly)

    def attach_only(self, node, mode=WRITER, readonly=False):
        """For a node that has registered."""
        return Attachment(self, node, self.target.controller.AttachVolume(
            volume_id=self.id, node_id=node, access_mode=mode, readonly=readonly,
            record_generation=self.get().record_generation).attachment.epoch)

    def detach(self, node="n1", **options):
        """As the controller does it, by what it reads first."""
        volume = self.get()
        epochs = [attachment.epoch for attachment in volume.attachments if attachment.node_id == node]
        decided = {"epoch": epochs[0]} if epochs else {"record_generation": volume.record_generation}
        return self.target.controller.DetachVolume(volume_id=self.id, node_id=node, **{**decided, **options})

    def get(self):
        return self.target.controller.GetVolume(volume_id=self.id).volume

    def sessions(self):
        return list(self.target.operator.ListSessions(volume_id=self.id).sessions)


def register(target, node, boot_id=None):
    return target.node(node).RegisterNode(node_id=node, boot_id=boot_id or secrets.token_hex(16), address="test")


class Attachment:
    def __init__(self, volume, node, epoch):
        self.volume, self.node, self.epoch, self.generation = volume, node, epoch, 0
        got = self.client.GetAttachment(volume_id=volume.id, node_id=node)
        self.user, self.secret = got.chap_name, got.chap_secret

    @property
    def client(self):
        return self.volume.target.node(self.node)

    def grant(self, holding=None, **options):
        """A new generation; user and secret are its from now on. Returns the ones before."""
        before = self.user, self.secret
        granted = self.client.GrantGeneration(volume_id=self.volume.id, node_id=self.node, epoch=self.epoch,
                                              holding_generation=self.generation if holding is None else holding,
                                              **options)
        self.generation, self.user, self.secret = granted.generation, granted.chap_name, granted.chap_secret
        return before

    def begin_format(self, **options):
        fields = dict(epoch=self.epoch, generation=self.generation)
        fields.update(options)
        return self.client.BeginFormat(volume_id=self.volume.id, node_id=self.node, **fields)

    def end_format(self, **options):
        fields = dict(epoch=self.epoch, generation=self.generation)
        fields.update(options)
        return self.client.EndFormat(volume_id=self.volume.id, node_id=self.node, **fields)

    def url(self, lun=0):
        return f"iscsi://{self.user}%{self.secret}@{self.volume.target.portal}/{self.volume.iqn}/{lun}"

    def login(self, isid=None, user=None, secret=None, name=None, extra=(), timeout_s=30):
        """A session of its own; the caller closes it."""
        initiator = raw_iscsi.Initiator(self.volume.target.portal, isid=isid or raw_iscsi.random_isid(),
                                        timeout_s=timeout_s,
                                        name=name or f"iqn.2026-11.storage.mooring:node:{self.node}")
        try:
            initiator.login(self.volume.iqn, user or self.user, secret or self.secret, extra)
        except BaseException:
            initiator.close()
            raise
        return initiator

    def login_status(self, **options):
        """0, or the status that the login is refused with."""
        try:
            self.login(**options).close()
        except raw_iscsi.LoginFailed as failed:
            return failed.status
        return 0


def expect(actual, wanted, what):
    if actual != wanted:
        raise AssertionError(f"{what}: {actual!r}, not {wanted!r}")
