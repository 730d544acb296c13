#!/usr/bin/python3
"""The gRPC server of rpc/ as a client that is not ours sees it: Python's grpcio, and openssl.

Messages are built by hand where they must be wrong. The server is the test program rpc_test_server, whose services
tests/unit/rpc_service.h describes.
"""
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading

import grpc
import harness
from harness import run

STORAGE = "/mooring.storage.v1.Storage/"


def field(number, value):
    """A protobuf field: bytes, or a small number."""
    if isinstance(value, int):
        assert 0 <= value < 128
        return bytes([number << 3, value])
    length, head = len(value), b""
    while length > 127:
        head, length = head + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + head + bytes([length]) + value


def server_program():
    return harness.program("rpc_test_server")


class Server:
    def __init__(self, endpoint, *tls):
        self.log_file = tempfile.TemporaryFile()
        self.process = subprocess.Popen([server_program(), endpoint, *tls], stdout=subprocess.PIPE, stderr=self.log_file)
        if self.process.stdout.readline() != b"ready\n":
            self.process.wait()
            raise RuntimeError("the server did not start: " + self.log())

    def log(self):
        self.log_file.seek(0)
        return self.log_file.read().decode()

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.stdout.close()
        return self.process.wait(60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop(signal.SIGKILL)
        self.log_file.close()


def call(channel, method, request=b"", **options):
    """The response's bytes, or the RpcError, which is a call with code(), details() and trailing_metadata()."""
    options.setdefault("timeout", 20)
    try:
        return channel.unary_unary(method if method[0] == "/" else STORAGE + method)(request, **options)
    except grpc.RpcError as error:
        return error


def expect_code(result, code, words=""):
    assert isinstance(result, grpc.RpcError), f"answered {result!r}"
    assert result.code() == code, f"{result.code()}: {result.details()}"
    assert words in result.details(), result.details()


def test_unary(channel, _server):
    assert call(channel, "GetServer") == field(1, b"store-1") + bytes([12 << 3, 42])


def test_error_and_exact_code(channel, _server):
    error = call(channel, "GetVolume", field(1, b"7"))  # E_STALE
    expect_code(error, grpc.StatusCode.ABORTED, "volume 7: ünmöglich")
    assert dict(error.trailing_metadata())["mooring-code"] == "STALE"
    expect_code(call(channel, "GetVolume", field(1, b"-28")), grpc.StatusCode.INTERNAL)


def test_nul_refused(channel, _server):
    expect_code(call(channel, "GetVolume", field(1, b"1\x00x")), grpc.StatusCode.INVALID_ARGUMENT, "volume_id")


def test_bad_utf8_refused(channel, _server):
    expect_code(call(channel, "GetVolume", field(1, b"\xff")), grpc.StatusCode.INVALID_ARGUMENT, "UTF-8")


def test_garbage_refused(channel, _server):
    for garbage in (b"\x0a\x05x", b"\x0b", b"\x80" * 11, b"\x00\x01"):
        expect_code(call(channel, "GetVolume", garbage), grpc.StatusCode.INVALID_ARGUMENT)


def test_no_message_refused(channel, _server):
    try:
        result = channel.stream_unary(STORAGE + "GetServer")(iter(()), timeout=20)
    except grpc.RpcError as error:
        result = error
    expect_code(result, grpc.StatusCode.INVALID_ARGUMENT)


def test_unknown_methods(channel, _server):
    for method in ("ListNodes", "NoSuchMethod", "/csi.v1.Node/NodeGetInfo", "/x/y"):
        expect_code(call(channel, method), grpc.StatusCode.UNIMPLEMENTED)


def test_too_large_refused(channel, _server):
    expect_code(call(channel, "GetVolume", field(1, b"1" * 150000)), grpc.StatusCode.RESOURCE_EXHAUSTED)
    test_unary(channel, _server)


def memory_peak_bytes(server):
    with open(f"/proc/{server.process.pid}/status", encoding="ascii") as status:
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1]) * 1024


def test_huge_is_not_buffered(channel, server):
    """gRPC by itself takes in all of a message, whatever its size, before it compares it with the limit."""
    size, before = 160 << 20, memory_peak_bytes(server)
    expect_code(call(channel, "GetVolume", field(1, b"1" * size), timeout=60), grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert memory_peak_bytes(server) - before < size // 2
    test_unary(channel, server)


def test_stream(channel, _server):
    method = channel.unary_stream("/csi.v1.SnapshotMetadata/GetMetadataAllocated")
    assert len(list(method(field(3, 100), timeout=20))) == 100


def test_cancel_reaches_handler(channel, server):
    stream = channel.unary_stream("/csi.v1.SnapshotMetadata/GetMetadataDelta")(
        b"", timeout=60, metadata=(("x-request-id", "given-up"),))
    next(stream)
    stream.cancel()
    while not re.search(r"id=given-up .*status=CANCELLED", server.log()):
        assert server.process.poll() is None
        test_unary(channel, server)


def test_deadline(channel, _server):
    expect_code(call(channel, "DeleteVolume", timeout=0.2), grpc.StatusCode.DEADLINE_EXCEEDED)


def test_access_log(channel, server):
    call(channel, "GetVolume", field(1, b"2 hidden-content"), metadata=(("x-request-id", "req-1.a_B"),))
    call(channel, "GetServer", metadata=(("x-request-id", "bad id"),))
    call(channel, "/evil/x%0aid=forged\x7f")
    log = server.log()
    line = re.search(r"id=req-1.a_B peer=local@\S+ method=/mooring.storage.v1.Storage/GetVolume status=NOT_FOUND "
                     r"duration_ms=[0-9.]+\n", log)
    assert line, log
    assert "hidden-content" not in log and "bad id" not in log, log
    assert re.search(r"id=[0-9a-f]{16} peer=\S+ method=/mooring.storage.v1.Storage/GetServer status=OK", log), log


def test_many_at_once(channel, _server):
    results = []
    threads = [threading.Thread(target=lambda: results.append(call(channel, "GetServer"))) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 32 and all(isinstance(r, bytes) for r in results), results


def test_stops_in_good_order(channel, server):
    test_unary(channel, server)
    assert server.stop() == 0
    assert "ERROR" not in server.log()


UNIX_TESTS = (test_unary, test_error_and_exact_code, test_nul_refused, test_bad_utf8_refused, test_garbage_refused,
              test_no_message_refused, test_unknown_methods, test_too_large_refused,
              test_huge_is_not_buffered, test_stream,
              test_cancel_reaches_handler, test_deadline, test_access_log, test_many_at_once,
              test_stops_in_good_order)


class Tls:
    """A server over TLS, certificates by rpc/tls_issue, and one of openssl's own with a name that is no role."""

    def __init__(self, scratch):
        self.scratch, self.ca = scratch, os.path.join(scratch, "ca")
        for name, common_name in (("server", "mooring:server:store-1"), ("node", "mooring:node:worker-1")):
            run(server_program(), "issue", self.ca, common_name, "127.0.0.1", self.path(name))
        run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=root",
            "-keyout", self.path("roleless.key"), "-out", self.path("roleless.csr"))
        run("openssl", "x509", "-req", "-in", self.path("roleless.csr"), "-CA", self.path("ca/ca.crt"), "-CAkey",
            self.path("ca/ca.key"), "-days", "1", "-out", self.path("roleless.crt"))
        self.address = f"127.0.0.1:{harness.free_port()}"

    def path(self, name):
        return os.path.join(self.scratch, name)

    def read(self, name):
        with open(self.path(name), "rb") as data:
            return data.read()

    def channel(self, name):
        pair = (self.read(name + ".key"), self.read(name + ".crt")) if name else (None, None)
        return grpc.secure_channel(self.address, grpc.ssl_channel_credentials(self.read("ca/ca.crt"), *pair))


def test_tls_node(tls, server):
    with tls.channel("node") as channel:
        test_unary(channel, server)
    assert "peer=node:worker-1@" in server.log(), server.log()


def test_tls_no_certificate(tls, _server):
    with tls.channel(None) as channel:
        expect_code(call(channel, "GetServer"), grpc.StatusCode.UNAVAILABLE)


def test_tls_plain_text(tls, _server):
    with grpc.insecure_channel(tls.address) as channel:
        expect_code(call(channel, "GetServer"), grpc.StatusCode.UNAVAILABLE)


def test_tls_no_role(tls, server):
    with tls.channel("roleless") as channel:
        expect_code(call(channel, "GetServer"), grpc.StatusCode.UNAUTHENTICATED)
    assert "peer=none@" in server.log()


def s_client(tls, *options):
    return run("openssl", "s_client", "-connect", tls.address, "-alpn", "h2", "-CAfile", tls.path("ca/ca.crt"), "-cert",
               tls.path("node.crt"), "-key", tls.path("node.key"), "-verify_return_error", *options, check=False,
               errors="replace").stdout


def test_tls_version(tls, _server):
    assert "New, TLSv1.3" in s_client(tls)
    assert "New, TLSv1" not in s_client(tls, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0")


def test_tls_certificates(tls, _server):
    for purpose in ("sslclient", "sslserver"):
        run("openssl", "verify", "-x509_strict", "-purpose", purpose, "-verify_ip", "127.0.0.1", "-CAfile",
            tls.path("ca/ca.crt"), tls.path("node.crt"))
    text = run("openssl", "x509", "-noout", "-text", "-in", tls.path("node.crt")).stdout
    for words in ("CA:FALSE", "prime256v1", "Digital Signature", "TLS Web Client Authentication"):
        assert words in text, text
    refused = run("openssl", "verify", "-CAfile", tls.path("node.crt"), tls.path("server.crt"), check=False)
    assert refused.returncode != 0  # a leaf is no CA


def test_tls_still_serves(tls, server):
    test_tls_node(tls, server)
    assert server.stop() == 0


TLS_TESTS = (test_tls_node, test_tls_no_certificate, test_tls_plain_text, test_tls_no_role, test_tls_version,
             test_tls_certificates, test_tls_still_serves)


def test_stale_socket(scratch):
    endpoint = f"unix://{scratch}/stale.sock"
    with Server(endpoint) as server:
        server.stop(signal.SIGKILL)
    assert os.path.exists(f"{scratch}/stale.sock")
    with Server(endpoint) as server, grpc.insecure_channel(f"unix:{scratch}/stale.sock") as channel:
        test_unary(channel, server)


def main():
    suite = harness.Suite()

    def run_test(test, *arguments):
        suite.run(f"rpc_{test.__name__[5:]}", test, *arguments)

    with tempfile.TemporaryDirectory() as scratch:
        with Server(f"unix://{scratch}/s.sock") as server, grpc.insecure_channel(f"unix:{scratch}/s.sock") as channel:
            for test in UNIX_TESTS:
                run_test(test, channel, server)
        run_test(test_stale_socket, scratch)
        tls = Tls(scratch)
        with Server(tls.address, tls.path("ca/ca.crt"), tls.path("server.crt"), tls.path("server.key")) as server:
            for test in TLS_TESTS:
                run_test(test, tls, server)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(harness.main(main))
