"""An iSCSI initiator for tests, small and obedient only where the test wants it: each PDU can be sent by hand.
RFC 7143; CHAP with MD5; no digests unless asked for."""
import hashlib
import os
import socket
import struct

NOP_OUT, COMMAND, TMF, LOGIN, TEXT, DATA_OUT, LOGOUT, SNACK = 0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10
NOP_IN, RESPONSE, TMF_RESPONSE, LOGIN_RESPONSE, TEXT_RESPONSE, DATA_IN, LOGOUT_RESPONSE, R2T, REJECT = (
    0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x31, 0x3F)
IMMEDIATE, FINAL = 0x40, 0x80
ABORT_TASK, ABORT_TASK_SET, LUN_RESET, TARGET_WARM_RESET = 1, 2, 5, 6


def _crc32c_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


CRC32C_TABLE = _crc32c_table()


def crc32c(data):
    """A digest as it goes over the wire."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC32C_TABLE[(crc ^ byte) & 0xFF]
    return struct.pack("<I", crc ^ 0xFFFFFFFF)


class Closed(Exception):
    """The target closed the connection."""


class LoginFailed(Exception):
    def __init__(self, status):
        super().__init__(f"login status 0x{status:04x}")
        self.status = status


class Pdu:
    def __init__(self, header, data):
        self.header, self.data = header, data
        self.opcode, self.flags = header[0] & 0x3F, header[1]
        self.tag, self.stat_sn = struct.unpack(">I", header[16:20])[0], struct.unpack(">I", header[24:28])[0]
        self.exp_cmd_sn, self.max_cmd_sn = struct.unpack(">II", header[28:36])

    @property
    def transfer_tag(self):
        return struct.unpack(">I", self.header[20:24])[0]


def header(opcode, flags=FINAL, length=0, lun=0, tag=0, fields=b"", specific=b"\0\0"):
    """48 bytes; fields go from byte 20 on."""
    head = struct.pack(">BB2sB", opcode, flags, specific, 0) + struct.pack(">I", length)[1:]
    return (head + struct.pack(">QI", lun, tag) + fields).ljust(48, b"\0")


class Initiator:
    """One connection. Raises Closed when the target ends it."""

    def __init__(self, portal, name="iqn.2026-11.storage.mooring:node:test", isid=b"\x80\0\0\0\0\1", timeout_s=30):
        host, _, port = portal.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=timeout_s)
        self.name, self.isid = name, isid
        self.cmd_sn = self.exp_stat_sn = 1
        self.next_tag = 1
        self.max_recv = 262144
        self.answers, self.data_in, self.r2ts = {}, {}, []
        self.header_digest = self.data_digest = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    # ---- bytes ----

    def send_raw(self, data):
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise Closed(str(error)) from error

    def _receive_exactly(self, size):
        data = b""
        while len(data) < size:
            try:
                piece = self.socket.recv(size - len(data))
            except ConnectionError as error:
                raise Closed(str(error)) from error
            if not piece:
                raise Closed("end of stream")
            data += piece
        return data

    def receive(self):
        head = self._receive_exactly(48)
        if self.header_digest:
            assert self._receive_exactly(4) == crc32c(head), "the target's header digest is wrong"
        length = int.from_bytes(head[5:8], "big")
        data = self._receive_exactly((length + 3) & ~3)
        if self.data_digest and data:
            assert self._receive_exactly(4) == crc32c(data), "the target's data digest is wrong"
        pdu = Pdu(head, data[:length])
        if pdu.opcode not in (R2T,) and not (pdu.opcode == DATA_IN and not pdu.flags & 1):
            self.exp_stat_sn = (pdu.stat_sn + 1) & 0xFFFFFFFF
        return pdu

    def closed(self):
        """Read whatever still comes; True once the target has closed the connection."""
        try:
            while True:
                self.receive()
        except Closed:
            return True
        except socket.timeout:
            return False

    def send(self, head, data=b"", spoil_header=False, spoil_data=False):
        data += b"\0" * (-len(data) % 4)
        if self.header_digest:
            head += crc32c(head + b"x" if spoil_header else head)
        if self.data_digest and data:
            data += crc32c(data + b"x" if spoil_data else data)
        self.send_raw(head + data)

    # ---- login ----

    def login_pdu(self, keys, stage, next_stage=None, transit=True, tsih=0):
        text = b"".join(f"{key}={value}".encode() + b"\0" for key, value in keys)
        flags = stage << 2 | (0x80 | next_stage if transit else 0)
        head = struct.pack(">BBBBB", LOGIN | IMMEDIATE, flags, 0, 0, 0) + struct.pack(">I", len(text))[1:]
        head += self.isid + struct.pack(">HIHH", tsih, 0, 0, 0) + struct.pack(">II", self.cmd_sn, self.exp_stat_sn)
        self.send(head.ljust(48, b"\0"), text)

    def login_answer(self):
        pdu = self.receive()
        assert pdu.opcode == LOGIN_RESPONSE, f"opcode 0x{pdu.opcode:02x} in login"
        status = struct.unpack(">H", pdu.header[36:38])[0]
        if status:
            raise LoginFailed(status)
        self.cmd_sn = pdu.exp_cmd_sn
        pairs = [pair.split("=", 1) for pair in pdu.data.decode().split("\0") if pair]
        return pdu, dict(pairs)

    def login(self, target, user, secret, extra=()):
        """A normal session (target None: discovery), by CHAP with MD5 when there is a user. The agreed keys."""
        first = [("InitiatorName", self.name)]
        first += [("SessionType", "Discovery")] if target is None else [("TargetName", target)]
        self.login_pdu(first + [("AuthMethod", "CHAP" if user else "None")], 0, 1, transit=not user)
        _, keys = self.login_answer()
        if user:
            self.login_pdu([("CHAP_A", "5")], 0, transit=False)
            _, keys = self.login_answer()
            challenge = bytes.fromhex(keys["CHAP_C"][2:])
            digest = hashlib.md5(bytes([int(keys["CHAP_I"])]) + secret.encode() + challenge).hexdigest()
            self.login_pdu([("CHAP_N", user), ("CHAP_R", "0x" + digest)], 0, 1)
            self.login_answer()
        offered = {"HeaderDigest": "None", "DataDigest": "None", "InitialR2T": "Yes", "ImmediateData": "Yes",
                   "MaxRecvDataSegmentLength": str(self.max_recv), **dict(extra)}
        if target is None:
            offered = {"MaxRecvDataSegmentLength": str(self.max_recv)}
        self.login_pdu(list(offered.items()), 1, 3)
        _, keys = self.login_answer()
        self.header_digest = keys.get("HeaderDigest") == "CRC32C"
        self.data_digest = keys.get("DataDigest") == "CRC32C"
        return keys

    # ---- the full feature phase ----

    def tag(self):
        self.next_tag += 1
        return self.next_tag

    def command(self, cdb, read=0, write=0, data=b"", tag=None, flags=FINAL, cmd_sn=None):
        """Send a SCSI command with immediate data; returns its tag."""
        tag = tag or self.tag()
        flags |= (0x40 if read else 0) | (0x20 if write else 0) | 1
        if cmd_sn is None:
            cmd_sn, self.cmd_sn = self.cmd_sn, self.cmd_sn + 1
        fields = struct.pack(">III", read or write, cmd_sn, self.exp_stat_sn) + cdb.ljust(16, b"\0")
        self.send(header(COMMAND, flags, len(data), tag=tag, fields=fields), data)
        return tag

    def write(self, lba, data, immediate=None, block_size=4096, fua=False):
        blocks = len(data) // block_size
        cdb = struct.pack(">BBQIH", 0x8A, 8 if fua else 0, lba, blocks, 0)
        return self.command(cdb, write=len(data), data=data if immediate is None else data[:immediate])

    def read(self, lba, blocks, block_size=4096):
        return self.command(struct.pack(">BBQIH", 0x88, 0, lba, blocks, 0), read=blocks * block_size)

    def data_out(self, r2t, data, data_sn=0, offset=None, final=True, transfer_tag=None, tag=None):
        asked = struct.unpack(">I", r2t.header[40:44])[0]
        fields = struct.pack(">IIIIIII", r2t.transfer_tag if transfer_tag is None else transfer_tag, 0,
                             self.exp_stat_sn, 0, data_sn, asked if offset is None else offset, 0)
        self.send(header(DATA_OUT, FINAL if final else 0, len(data), tag=tag or r2t.tag, fields=fields), data)

    def data_out_all(self, r2t, data, segment=65536):
        """All that the R2T asks for, of the command's whole data."""
        offset, length = struct.unpack(">II", r2t.header[40:48])
        for number, start in enumerate(range(offset, offset + length, segment)):
            end = min(start + segment, offset + length)
            self.data_out(r2t, data[start:end], number, start, final=end == offset + length)

    def r2t(self):
        """The next R2T."""
        pdu = self.r2ts.pop(0) if self.r2ts else self.receive()
        assert pdu.opcode == R2T, f"opcode 0x{pdu.opcode:02x} while an R2T is awaited"
        return pdu

    def wait(self, tag):
        """(status, data, sense) of the command with this tag; what comes for others is kept for their wait()."""
        while tag not in self.answers:
            pdu = self.receive()
            if pdu.opcode == DATA_IN:
                self.data_in[pdu.tag] = self.data_in.get(pdu.tag, b"") + pdu.data
                if pdu.flags & 1:
                    self.answers[pdu.tag] = pdu.header[3], self.data_in.pop(pdu.tag), b""
            elif pdu.opcode == RESPONSE:
                self.answers[pdu.tag] = pdu.header[3], self.data_in.pop(pdu.tag, b""), pdu.data[2:]
            elif pdu.opcode == R2T:
                self.r2ts.append(pdu)
            elif pdu.opcode == TMF_RESPONSE:
                self.answers[pdu.tag] = pdu.header[2], b"", b""
            else:
                raise AssertionError(f"opcode 0x{pdu.opcode:02x} while an answer is awaited")
        return self.answers.pop(tag)

    def management(self, function, referenced=0xFFFFFFFF):
        tag = self.tag()
        fields = struct.pack(">IIIII", referenced, self.cmd_sn, self.exp_stat_sn, 0, 0)
        self.send(header(TMF | IMMEDIATE, FINAL | function, tag=tag, fields=fields))
        return tag

    def text(self, pairs):
        data = b"".join(f"{key}={value}".encode() + b"\0" for key, value in pairs)
        fields = struct.pack(">III", 0xFFFFFFFF, self.cmd_sn, self.exp_stat_sn)
        self.cmd_sn += 1
        self.send(header(TEXT, FINAL, len(data), tag=self.tag(), fields=fields), data)
        return self.receive().data.decode().split("\0")

    def ping_only(self, data=b"ping"):
        fields = struct.pack(">III", 0xFFFFFFFF, self.cmd_sn, self.exp_stat_sn)
        self.send(header(NOP_OUT | IMMEDIATE, FINAL, len(data), tag=self.tag(), fields=fields), data)

    def ping(self, data=b"ping"):
        self.ping_only(data)
        return self.receive()

    def logout(self):
        fields = struct.pack(">III", 0, self.cmd_sn, self.exp_stat_sn)
        self.send(header(LOGOUT | IMMEDIATE, FINAL, tag=self.tag(), fields=fields))
        return self.receive()


def random_isid():
    return b"\x80" + os.urandom(5)
