#!/usr/bin/python3
"""What people read against what is there: each program's options and configuration keys with its man page, both ways; the
commands, files and links of the .md files; the man pages' own syntax."""
import json
import pathlib
import re
import shutil
import sys
import tempfile

import harness

ROOT = harness.ROOT
MAN = ROOT / "docs" / "man"
EVERYWHERE = {"help", "version"}
FOLDERS = ("common", "rpc", "proto", "controller", "node", "datapath", "cli", "tests", "docs", "examples", "scripts", "cmake",
           "deploy")


def same(what, documented, real):
    """Both ways, naming what differs."""
    documented, real = set(documented), set(real)
    missing, invented = sorted(real - documented), sorted(documented - real)
    words = []
    if missing:
        words.append(f"not documented: {', '.join(missing)}")
    if invented:
        words.append(f"documented, but not there: {', '.join(invented)}")
    if words:
        raise AssertionError(f"{what}: {'; '.join(words)}")


# ---- man pages ----


def page(name):
    """A page's source without fonts: \\fB--config\\fR=\\fIFILE becomes --config=FILE; macros stay."""
    found = list(MAN.glob(f"{name}.[1-9]"))
    if not found:
        raise AssertionError(f"docs/man has no page of {name}")
    return re.sub(r"\\f[BIRP]", "", found[0].read_text(encoding="utf-8")).replace("\\-", "-")


def section(name, *titles):
    """The text of the sections of these titles, of which the first must be there."""
    found = dict(re.findall(r"^\.SH (.+)\n((?:(?!\.SH ).*\n)*)", page(name), re.MULTILINE))
    if titles[0] not in found:
        raise AssertionError(f"the page of {name} has no section {titles[0]}")
    return "".join(found.get(title, "") for title in titles)


def options_in(text):
    """Names of long options. A macro that alternates fonts joins its words, so blanks may stand before the =."""
    return set(re.findall(r"(?<![\w-])--([a-z][a-z-]*)", text))


def keys_in(text):
    """Keys are what a page writes as \\(dqkey\\(dq."""
    return set(re.findall(r"\\\(dq([a-z_]+)\\\(dq", text))


def help_options(program, *words):
    # Its end is not looked at: mooring-holder takes --help for wrong usage, and says what is right.
    return options_in(harness.run(harness.program(program), *words, "--help", check=False).stdout)


def programs():
    names = sorted(path.name for path in (harness.BUILD / "bin").glob("mooring*") if path.is_file())
    if not names:
        raise harness.Skip("nothing is built")
    return names


def every_program_has_a_page():
    same("programs", (path.stem for path in MAN.glob("*.[1-9]")), programs())


def options_of(program):
    same(program, options_in(page(program)) - EVERYWHERE, help_options(program) - EVERYWHERE)


def options_of_pool():
    real = help_options("mooring-pool", "create") | help_options("mooring-pool", "show")
    same("mooring-pool", options_in(page("mooring-pool")) - EVERYWHERE, real - EVERYWHERE)


def pages_lint():
    if not shutil.which("mandoc"):
        raise harness.Skip("mandoc is not here")
    done = harness.run("mandoc", "-T", "lint", "-W", "warning", *sorted(MAN.glob("*.[1-9]")), check=False)
    if done.stdout.strip():
        raise AssertionError(done.stdout.strip().splitlines()[0])


# ---- mooring's commands ----


def cli_commands():
    """(group, command) of all, by mooring's own help."""
    text = harness.run(harness.program("mooring"), "--help").stdout
    return re.findall(r"^  ([a-z]+) ([a-z-]+) ", text, re.MULTILINE)


def cli_groups():
    return "|".join(sorted({group for group, _ in cli_commands()}))


def cli_common():
    text = harness.run(harness.program("mooring"), "--help").stdout
    return options_in(text[text.index("Options of every command"):])


def cli_entries():
    """{"volume create": its part of mooring(1)}: from its name at the start of a line to the next one's."""
    entries, current, groups = {}, None, cli_groups()
    for line in page("mooring").splitlines():
        start = re.match(rf"\.B ((?:{groups}) [a-z-]+)", line)
        if start:
            current = start.group(1)
        elif line.startswith(".SH"):
            current = None
        if current:
            entries[current] = entries.get(current, "") + line + "\n"
    return entries


def cli_commands_are_documented():
    same("mooring(1)", cli_entries(), (" ".join(words) for words in cli_commands()))
    same("mooring(1), options of every command", options_in(section("mooring", "OPTIONS")) - EVERYWHERE,
         cli_common() - EVERYWHERE)


def cli_options_are_documented(group, command):
    same(f"mooring {group} {command}", options_in(cli_entries().get(f"{group} {command}", "")),
         help_options("mooring", group, command) - EVERYWHERE)


# ---- configuration keys: a program that meets an unknown one names those that it knows ----


def known_keys(program, config, *words):
    with tempfile.TemporaryDirectory(prefix="mooring-") as folder:
        path = pathlib.Path(folder) / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        text = harness.run(harness.program(program), "--config", path, *words, check=False, timeout=20).stdout
    match = re.search(r'unknown key "no_such_key"; the keys here are: ([a-z_, ]+)', text)
    if not match:
        raise AssertionError(f"{program} does not name its keys: {text.strip()}")
    return set(match.group(1).split(", "))


def configuration(program, base, nested, *words):
    """base: a configuration that is good as far as it is read before the part that is asked about. nested: (key, value
    with a wrong key in it), for the keys within."""
    wrong = {"no_such_key": 1}
    real = known_keys(program, {**base, **wrong}, *words)
    for key, value in nested:
        real |= known_keys(program, {**base, key: value}, *words)
    same(f"{program}'s configuration", keys_in(section(program, "CONFIGURATION", "LIMITS")), real)


def configuration_of_all(suite):
    wrong = {"no_such_key": 1}
    tls = {"ca": "/ca", "cert": "/cert", "key": "/key"}
    inner = [("servers", [wrong]), ("tls", wrong)]
    target = {"server_id": "a", "pool": "/", "pool_uuid": "", "listen": "127.0.0.1:1", "portals": ["127.0.0.1:1"], "tls": tls}
    suite.run("docs.mooring-target-configuration", configuration, "mooring-target", target, [("tls", wrong), ("limits", wrong)])
    suite.run("docs.mooring-controller-configuration", configuration, "mooring-controller", {"servers": []}, inner)
    suite.run("docs.mooring-node-configuration", configuration, "mooring-node",
              {"node_id": "a", "servers": [], "tls": tls}, inner)
    suite.run("docs.mooring-configuration", configuration, "mooring", {}, inner, "pool", "list")


def device_files():
    """device.json and status.json have no such error: their keys are read off the code that reads and writes them."""
    source = (ROOT / "datapath" / "device" / "state.c").read_text(encoding="utf-8")
    read = set(re.findall(r'record_get_\w+\(object, "(\w+)"', source))
    same("mooring-device's device.json", keys_in(section("mooring-device", "DEVICE.JSON")), read | {"format", "node_id"})
    writer = source[source.index("int device_status_save("):]
    same("mooring-device's status.json", keys_in(section("mooring-device", "STATUS.JSON")), re.findall(r'"(\w+)",', writer))


# ---- the .md files ----


def markdown():
    return [ROOT / "README.md", *ROOT.glob("CONTRIBUTING.md"), *sorted((ROOT / "docs").rglob("*.md")),
            *sorted((ROOT / "examples").rglob("*.md")), *sorted((ROOT / "tests").rglob("*.md"))]


def slug(heading):
    """As GitHub makes the anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(path):
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)}


def links(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists():
            raise AssertionError(f"{target} leads nowhere")
        if anchor and anchor not in anchors(file):
            raise AssertionError(f"{target}: no such heading")


def paths(path):
    """Files of the repository that the text names in `backticks`."""
    for name in re.findall(r"`([\w.*-]+/[\w./*-]*)`", path.read_text(encoding="utf-8")):
        if name.split("/")[0] in FOLDERS and not list(ROOT.glob(name.rstrip("/"))):
            raise AssertionError(f"`{name}` is not there")


def every_folder_is_told_of():
    """Each folder of the code and of the tests is in the architecture page's table."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = set()
    for name in harness.run("git", "-C", ROOT, "ls-files").stdout.splitlines():
        parts = pathlib.PurePath(name).parts
        depth = 2 if parts[0] in ("datapath", "tests", "examples") else 1
        if len(parts) > depth and not name.startswith("."):
            folders.add("/".join(parts[:depth]))
    missing = sorted(folder for folder in folders if f"`{folder}/`" not in text)
    if missing:
        raise AssertionError(f"docs/architecture.md does not tell of {', '.join(missing)}")


def code(text):
    """What a reader would type: indented and fenced lines, and `spans`; lines that end in a backslash joined."""
    parts = re.findall(r"`(mooring [^`\n]+)`", text)
    inside = False
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            inside = not inside
        elif inside or line.startswith("    "):
            parts.append(line)
    return parts


def commands(path):
    """Commands of mooring that the text shows, with their options."""
    known, groups = {f"{group} {command}" for group, command in cli_commands()}, cli_groups()
    for part in code(path.read_text(encoding="utf-8")):
        for group, command, rest in re.findall(rf"\bmooring ({groups}) ([a-z-]+)([^`|;&\n]*)", part):
            if f"{group} {command}" not in known:
                raise AssertionError(f"mooring {group} {command}: there is no such command")
            unknown = options_in(rest) - help_options("mooring", group, command) - cli_common()
            if unknown:
                raise AssertionError(f"mooring {group} {command} has no --{sorted(unknown)[0]}")


def main():
    suite = harness.Suite()
    suite.run("docs.programs", every_program_has_a_page)
    for program in ("mooring-controller", "mooring-device", "mooring-holder", "mooring-node", "mooring-target"):
        suite.run(f"docs.{program}-options", options_of, program)
    suite.run("docs.mooring-pool-options", options_of_pool)
    suite.run("docs.man-pages-lint", pages_lint)
    suite.run("docs.mooring-commands", cli_commands_are_documented)
    for group, command in cli_commands():
        suite.run(f"docs.mooring-{group}-{command}-options", cli_options_are_documented, group, command)
    configuration_of_all(suite)
    suite.run("docs.mooring-device-files", device_files)
    suite.run("docs.folders", every_folder_is_told_of)
    for path in markdown():
        name = str(path.relative_to(ROOT))
        suite.run(f"docs.{name}-links", links, path)
        suite.run(f"docs.{name}-paths", paths, path)
        suite.run(f"docs.{name}-commands", commands, path)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
