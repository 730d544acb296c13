"""A scrape of mooring-target's metrics, read as Prometheus reads it."""
import http.client
import re
import socket

SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="[^"\\]*",?)+)\})? ([0-9]+)')


class UnixConnection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.host)


def parse(text):
    """{"name" or 'name{label="value"}': number}. Each sample must have its HELP and its TYPE before it."""
    samples, kinds, helps = {}, {}, set()
    assert text.endswith("\n"), "the last line has no end"
    for line in text.splitlines():
        word = line.split(" ", 3)
        if word[:2] == ["#", "HELP"]:
            helps.add(word[2])
        elif word[:2] == ["#", "TYPE"]:
            assert word[2] in helps and word[2] not in kinds and word[3] in ("gauge", "counter"), line
            kinds[word[2]] = word[3]
        else:
            match = SAMPLE.fullmatch(line)
            assert match, f"no sample: {line}"
            assert match[1] in kinds and (kinds[match[1]] == "counter") == match[1].endswith("_total"), line
            key = line.rpartition(" ")[0]
            assert key not in samples, f"{key} comes twice"
            samples[key] = int(match[3])
    return samples


def request(address, path="/metrics", method="GET", body=None):
    """The answer's status, headers and text."""
    if address.startswith("unix://"):
        connection = UnixConnection(address.removeprefix("unix://"), timeout=60)
    else:
        connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


def scrape(address):
    status, headers, text = request(address)
    assert status == 200 and headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8", (status, headers)
    return parse(text)


def pool_states(samples):
    return [state for state in ("good", "filling", "full") if samples[f'mooring_pool_state{{state="{state}"}}']]
