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


NOT_HERE = "not checked here"  # what the machine lacks, not Mooring


def _result(result):
    kind, why = result
    return f"{WORDS[kind]}{f' {why}' if why else ''}"


def _line(rule, result):
    return f"| `{rule.name}` | {rule.text.replace('|', '/')} | {rule.part} | {_result(result)} |"


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


def _rules():
    """(id, words, result) of each rule in the document."""
    found, rpc = [], ""
    for line in PATH.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            rpc = line[3:]
        elif match := re.match(r"\| `([\w.-]+)` \| (.*?) \| .* \| (.*) \|$", line):
            found.append((f"{rpc}.{match[1]}", match[2], match[3]))
    return found


def listed():
    """(id, words) of each rule in the document."""
    return [one[:2] for one in _rules()]


def check():
    """The document has the rules of the code, in their words, and no others."""
    mine = [(rule.id, rule.text.replace("|", "/")) for rule in _rows()]
    there = listed() if PATH.exists() else []
    wrong = sorted(set(mine) ^ set(there))
    assert not wrong, f"docs/conformance.md differs at {wrong[0][0]}: make it anew with --write-doc"
    assert mine == there, "docs/conformance.md has another order: make it anew with --write-doc"


def check_results(results):
    """What the document says of each rule is what came out of a whole run. What a machine cannot check says nothing about
    what another one found: such a rule may be a pass there."""
    wrong = []
    for rule_id, _, said in _rules():
        found = _result(results.get(rule_id, ("FAIL", "it did not run")))
        here, there = (text.startswith(f"{WORDS['SKIP']} {NOT_HERE}") for text in (found, said))
        if found != said and not (here and said == WORDS["PASS"]) and not (there and found == WORDS["PASS"]):
            wrong.append(f"{rule_id} came out as {found!r}, the document says {said!r}")
    assert not wrong, f"{'; '.join(wrong[:3])}: make docs/conformance.md anew with --write-doc"
