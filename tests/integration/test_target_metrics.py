#!/usr/bin/python3
"""mooring-target's metrics: what Prometheus scrapes, what is refused, and clients that come in numbers or say nothing."""
import socket
import sys
import urllib.request

import harness
from target_fixture import MIB, Volume, expect
from target_metrics import parse, pool_states, request, scrape

CLIENTS = 16  # of METRICS_CLIENTS


def connect(target):
    host, _, port = target.config["metrics_address"].rpartition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def answer(client):
    """To its end."""
    data = b""
    while more := client.recv(65536):
        data += more
    client.close()
    return data.decode()


def numbers(target):
    volume = Volume(target, 16 * MIB)
    address = target.config["metrics_address"]
    harness.wait_until(lambda: scrape(address).get("mooring_volumes") == 1, "the volume is counted")
    session = volume.attach().login()
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as page:
        samples = parse(page.read().decode())
    server = target.controller.GetServer()
    expect(samples["mooring_pool_size_bytes"], server.capacity_bytes, "the pool's size")
    expect(samples["mooring_pool_promised_bytes"], 16 * MIB, "what is promised")
    expect(samples["mooring_pool_free_bytes"], server.free_bytes, "what is free")
    expect(0 < samples["mooring_pool_used_bytes"] < server.capacity_bytes, True, "what is used")
    expect(pool_states(samples), ["good"], "the pool's state")
    expect((samples["mooring_connections"], samples["mooring_sessions"]), (1, 1), "connections and sessions")
    zero = ("mooring_pool_overcommitted", "mooring_pool_read_errors", "mooring_snapshots", "mooring_volumes_unreadable",
            "mooring_volumes_write_failed", "mooring_writes_refused_total")
    expect([samples[name] for name in zero], [0] * len(zero), "what there is nothing of")
    expect(samples[f'mooring_server_info{{server_id="store-1",version="{server.version}"}}'], 1, "the server")
    session.close()
    harness.wait_until(lambda: scrape(address)["mooring_sessions"] == 0, "the session has gone")


def refusals(target):
    address = target.config["metrics_address"]
    for path in ("/", "/metrics/", "/metricsx", "/../metrics"):
        expect(request(address, path)[0], 404, path)
    expect(request(address, "/metrics?name=up")[0], 200, "a query")
    for method in ("POST", "PUT", "HEAD", "DELETE"):
        status, headers, _ = request(address, method=method, body=b"x" * 100000 if method != "HEAD" else None)
        expect((status, headers["Allow"]), (405, "GET"), method)
    for head, status in ((b"\r\n\r\n", 400), (b"GET\r\n\r\n", 400), (b"GET /metrics\r\n\r\n", 400),
                         (b"GET /metrics HTTP/2.0\r\n\r\n", 400), (b"GET /metrics HTTP/1.0\n\n", 200),
                         (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 5000, 431)):
        client = connect(target)
        client.sendall(head)
        text = answer(client)
        assert text.startswith(f"HTTP/1.1 {status} "), f"{head[:40]}: {text[:80]}"


def together(target):
    """Two that send their requests in pieces: neither waits for the other."""
    first, second = connect(target), connect(target)
    first.sendall(b"GET /met")
    second.sendall(b"GET /metrics HTTP/1.1\r\n")
    second.sendall(b"\r\n")
    parse(answer(second).partition("\r\n\r\n")[2])
    first.sendall(b"rics HTTP/1.1\r\nHost: x\r\n\r\n")
    parse(answer(first).partition("\r\n\r\n")[2])


def silent(target):
    """More clients that say nothing than there are places: who asks is answered, and the end comes all the same."""
    clients = [connect(target) for _ in range(3 * CLIENTS)]
    scrape(target.config["metrics_address"])
    expect(target.stop(), 0, "exit status")
    for client in clients:
        client.close()


def taken(target):
    """Somebody else has the address: said, and the end, before the pool is touched."""
    host, _, port = target.config["metrics_address"].rpartition(":")
    with socket.create_server((host, int(port))):
        target.start(wait=False)
        expect(target.process.wait(timeout=60), 1, "exit status")
        assert f"metrics: listen on {host}:{port}: another server has this port" in target.log_text(), target.log_text()[-500:]
        before = len(target.log_text())
        target.config["metrics_address"] = "nonsense"
        target.start(wait=False)
        expect(target.process.wait(timeout=60), 1, "exit status of nonsense")
        assert 'endpoint "nonsense"' in target.log_text()[before:], target.log_text()[before:]


def unix(target, path):
    """On a socket file, also where a killed one left its own; it goes with the server."""
    target.config["metrics_address"] = f"unix://{path}"
    target.start()
    target.kill()
    expect(path.is_socket(), True, "the socket file is left")
    target.start()
    scrape(target.config["metrics_address"])
    expect(target.stop(), 0, "exit status")
    expect(path.exists(), False, "the socket file after the end")


def main():
    suite = harness.Suite()
    with harness.Scratch() as scratch:
        tls = harness.Tls(scratch)
        target = harness.Target(scratch, tls, harness.Pool(scratch), metrics_address=f"127.0.0.1:{harness.free_port()}")
        for name, case in (("numbers", numbers), ("refusals", refusals), ("together", together), ("silent", silent),
                           ("taken", taken)):
            suite.run(name, case, target)
        suite.run("unix", unix, target, scratch.path / "metrics.sock")
    return suite.finish()


if __name__ == "__main__":
    sys.exit(harness.main(main))
