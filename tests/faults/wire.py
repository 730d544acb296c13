"""The network between devices and storage server, and what befalls it: packets dropped, connections reset, by nftables
rules in the test's own namespace; bytes delayed, held back, split, flipped, connections cut, by a proxy that knows
where iSCSI's headers are (RFC 7143, section 11.2)."""
import contextlib
import random
import select
import socket
import struct
import subprocess
import threading
import time

ISCSI_PORT = 3260
BHS_BYTES = 48
LOGIN_ANSWER = 0x23
CHUNK = 64 << 10


class Filter:
    """Packet rules on loopback; none is left after a `with`."""

    @staticmethod
    def _nft(text):
        subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)

    @contextlib.contextmanager
    def rule(self, *rules):
        self._nft("table inet faults {\nchain in {\ntype filter hook input priority 0; policy accept;\n"
                  + "\n".join(rules) + "\n}\n}")
        try:
            yield
        finally:
            self._nft("delete table inet faults")

    def cut(self, *ports):
        """The cable is out: nothing gets through, nobody is told."""
        ports = "{" + ",".join(map(str, ports)) + "}"
        return self.rule(f"tcp dport {ports} drop", f"tcp sport {ports} drop")

    def lossy(self, percent):
        match = f"numgen random mod 100 < {percent} drop"
        return self.rule(f"tcp dport {ISCSI_PORT} {match}", f"tcp sport {ISCSI_PORT} {match}")

    def reset(self, *addresses):
        """Each packet to these addresses is answered with a reset."""
        return self.rule(f"ip daddr {{{','.join(addresses)}}} tcp dport {ISCSI_PORT} reject with tcp reset")


class Framer:
    """Finds the headers in one direction of a connection: feed() gives (is_header, bytes) parts."""

    def __init__(self):
        self.buffer, self.data_left, self.digest = b"", 0, False

    def feed(self, chunk):
        self.buffer += chunk
        parts = []
        while self.buffer:
            if self.data_left:
                part = self.buffer[:self.data_left]
                self.data_left -= len(part)
                self.buffer = self.buffer[len(part):]
                parts.append((False, part))
                continue
            if len(self.buffer) < BHS_BYTES:
                break
            length = BHS_BYTES + self.buffer[4] * 4 + (4 if self.digest else 0)
            if len(self.buffer) < length:
                break
            parts.append((self.digest, self.buffer[:length]))
            self.data_left = -(-(int.from_bytes(self.buffer[5:8], "big")) // 4) * 4
            self.buffer = self.buffer[length:]
        return parts


class Proxy:
    """Listens on one address and passes on to another, from `source`. The mode holds for each chunk when it comes by:

    delay_s      each chunk waits so long
    stalled      nothing goes on until it is False
    split        chunks go on in pieces of 1 to so many bytes
    reset_after  a connection is reset (RST) after about so many bytes
    flip         a bit of one header in so many is flipped, where both sides agreed on header digests
    """

    def __init__(self, listen, forward, source, seed):
        self.forward, self.source = forward, source
        self.random = random.Random(seed)
        self.resets = self.flips = self.with_digests = 0
        self.connections = set()
        self.calm()
        self.socket = socket.create_server(listen)
        self.closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def calm(self):
        self.delay_s, self.stalled, self.split, self.reset_after, self.flip = 0, False, 0, 0, 0

    def _accept(self):
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.forward, timeout=5, source_address=(self.source, 0))
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            Connection(self, client, server)

    def close(self):
        """Stop listening, and reset what is open."""
        self.closed = True
        self.stalled = False
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for connection in list(self.connections):
            connection.reset()


class Connection:
    def __init__(self, proxy, client, server):
        self.proxy, self.sockets, self.bytes = proxy, (client, server), 0
        self.framers = (Framer(), Framer())
        self.ended = False
        for one in self.sockets:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        proxy.connections.add(self)
        threads = [threading.Thread(target=self._pump, args=(side,), daemon=True) for side in (0, 1)]
        for thread in threads:
            thread.start()

    def _pump(self, side):
        source, sink = self.sockets[side], self.sockets[1 - side]
        try:
            while not self.ended:
                # Never for long in the kernel with this socket: close() would wait for that before it resets.
                if not select.select([source], [], [], 0.02)[0]:
                    continue
                chunk = source.recv(CHUNK)
                if not chunk:
                    break
                self._pass(sink, self._frame(side, chunk))
        except (OSError, ValueError):  # ValueError: closed by the other direction's thread
            pass
        self._end()

    def _frame(self, side, chunk):
        """The chunk, whole headers only; digests begin after the login's last answer."""
        out = b""
        framer = self.framers[side]
        for is_header, part in framer.feed(chunk):
            if is_header and self.proxy.flip and self.proxy.random.randrange(self.proxy.flip) == 0:
                at = self.proxy.random.randrange(len(part) * 8)
                part = bytearray(part)
                part[at // 8] ^= 1 << at % 8
                self.proxy.flips += 1
            out += bytes(part)
            if not framer.digest and side == 1:
                self._watch_login(part)
        self._settle_login()
        return out

    def _watch_login(self, part):
        """HeaderDigest=CRC32C in a login answer's text, then the answer that goes to full feature phase."""
        if b"HeaderDigest=CRC32C\0" in part:
            self.agreed = True
        if len(part) >= BHS_BYTES and part[0] & 0x3F == LOGIN_ANSWER and part[1] & 0x83 == 0x83 and part[36] == 0:
            self.last_answer = True

    agreed = last_answer = False

    def _settle_login(self):
        """The last answer's text may carry the key; both directions change when its data has passed."""
        if not self.last_answer or self.framers[1].data_left:
            return
        if self.agreed:
            self.framers[0].digest = self.framers[1].digest = True
            self.proxy.with_digests += 1
        self.last_answer = False

    def _pass(self, sink, data):
        proxy = self.proxy
        if proxy.delay_s:
            time.sleep(proxy.random.uniform(0, proxy.delay_s))
        while proxy.stalled and not self.ended:
            time.sleep(0.01)
        self.bytes += len(data)
        if proxy.reset_after and self.bytes > proxy.random.uniform(0.5, 1.5) * proxy.reset_after:
            sink.sendall(data[:len(data) // 2])
            self.reset()
            return
        while data:
            piece = data if not proxy.split else data[:proxy.random.randint(1, proxy.split)]
            sink.sendall(piece)
            data = data[len(piece):]

    def reset(self):
        self.proxy.resets += 1
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._end(abort=True)

    def _end(self, abort=False):
        if self.ended:
            return
        self.ended = True
        self.proxy.connections.discard(self)
        for one in self.sockets:
            if not abort:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                one.close()
