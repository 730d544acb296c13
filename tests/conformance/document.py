"""docs/conformance.md, made from the table of rules and the results of a run."""
import re

import harness
import rules

PATH = harness.ROOT / "docs" / "conformance.md"
HEAD = """# Conformance

What the CSI specification 1.13 demands of a plugin, by RPC, and whether Mooring does it. Made by
`tests/conformance/test_conformance.py --write-doc`, which asks the real programs at their sockets, as a CO does; `tests/run`
asks again each time. The specification has the full text of each rule in the part that is named.
"""
WORDS = {"PASS": "pass", "FAIL": "**fails**", "SKIP": "–"}


def _line(rule, result):
    kind, why = result
    return f"| `{rule.name}` | {rule.text.replace('|', '/')} | {rule.part} | {WORDS[kind]}{f' {why}' if why else ''} |"


def _rows():
    """In the document's order: that of the specification, without regard to what runs when."""
    return sorted(rules.TABLE, key=lambda rule: rules.ORDER.index(rule.rpc))


def text(results):
    lines, counts = [], {}
    for rpc in rules.ORDER:
        mine = [rule for rule in _rows() if rule.rpc == rpc]
        if not mine:
            continue
        kinds = [results[rule.id][0] for rule in mine]
        counts[rpc] = [kinds.count(kind) for kind in ("PASS", "FAIL", "SKIP")]
        lines += ["", f"## {rpc}", "", "| Rule | Demands | Part | Result |", "| --- | --- | --- | --- |"]
        lines += [_line(rule, results[rule.id]) for rule in mine]
    table = ["", "## In numbers", "", "| | pass | fail | not checked |", "| --- | --- | --- | --- |"]
    table += [f"| [{rpc}](#{rpc.lower()}) | {' | '.join(map(str, row))} |" for rpc, row in counts.items()]
    table.append(f"| all | {' | '.join(str(sum(column)) for column in zip(*counts.values()))} |")
    return HEAD + "\n".join(table + lines) + "\n"


def write(results):
    PATH.write_text(text(results), encoding="utf-8")


def listed():
    """(id, words) of each rule in the document."""
    found, rpc = [], ""
    for line in PATH.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            rpc = line[3:]
        elif match := re.match(r"\| `([\w.-]+)` \| (.*?) \| ", line):
            found.append((f"{rpc}.{match[1]}", match[2]))
    return found


def check():
    """The document has the rules of the code, in their words, and no others."""
    mine = [(rule.id, rule.text.replace("|", "/")) for rule in _rows()]
    there = listed() if PATH.exists() else []
    wrong = sorted(set(mine) ^ set(there))
    assert not wrong, f"docs/conformance.md differs at {wrong[0][0]}: make it anew with --write-doc"
    assert mine == there, "docs/conformance.md has another order: make it anew with --write-doc"
