"""Which faults there are, how one is tried under load, and what must hold afterwards."""
import os
import pathlib
import random
import shutil
import tempfile
import time
import traceback

import database_faults
import disk_faults
import faults
import harness
import kills
import loads

KILLS = [(f"kill-{name}", kills.kill_one(name)) for name in kills.PROGRAMS]
KILLS += [("kill-in-order", kills.kill_in_order), ("kill-at-once", kills.kill_at_once),
          ("killed-taking-over", kills.killed_taking_over)]
NETWORK = [
    ("link-cut", faults.link_cut), ("whole-link-cut", faults.whole_link_cut),
    ("packets-dropped", faults.packets_dropped), ("packets-reset", faults.packets_reset),
    ("delayed", faults.by_proxy("up to {delay_s:.2f} s each", 8, delay_s=(0.01, 0.2))),
    ("split", faults.by_proxy("pieces of up to {split} bytes", 6, split=(1, 200))),
    ("connections-reset", faults.by_proxy("after {reset_after} bytes", 8, reset_after=(2000, 400000))),
    ("stalled", faults.stalled), ("headers-flipped", faults.headers_flipped),
]
HOSTS = [("storage-reboot", faults.storage_reboot), ("another-address", faults.another_address),
         ("target-stopped", faults.target_stopped), ("device-stopped", faults.device_stopped),
         ("device-stopped-60", faults.device_stopped_60)]
DISK = [("disk-eio", disk_faults.eio), ("disk-enospc", disk_faults.enospc), ("disk-read-eio", disk_faults.read_eio),
        ("flush-fails", disk_faults.flush_fails), ("database-eio", database_faults.eio),
        ("database-enospc", database_faults.enospc), ("database-pool-full", database_faults.pool_full),
        ("database-flush-fails", disk_faults.database_flush_fails)]
ALL = KILLS + NETWORK + HOSTS + DISK


class Row:
    def __init__(self, name, words, fio_s, ledger_s, database_s):
        self.name, self.words = name, words
        self.fio_s, self.ledger_s, self.database_s = fio_s, ledger_s, database_s


def injected(function):
    """Whether the fault's own errors are expected where it says so; it checks them itself."""
    return getattr(function, "injects", ())


def check_errors(lab, names, since, log_mark):
    """No I/O error that was not injected."""
    for name, ledger in lab.ledgers.items():
        seen = [] if name in names else ledger.errors_since(since)
        if seen:
            raise AssertionError(f"I/O errors on {name} that nobody injected: {sorted(set(seen))}, {len(seen)} of them")
        if ledger.wrong:
            raise AssertionError(f"corrupt blocks on {name}: {ledger.wrong[:10]}")
    if lab.database and "db" not in names:
        failed = [text for at, text in lab.database.load.errors if at >= since]
        if failed or lab.database.disk_errors(log_mark):
            raise AssertionError(f"MariaDB saw errors: {(failed + lab.database.disk_errors(log_mark))[:3]}")


def run_one(lab, name, function, choice):
    """One fault under all loads, to the end of its effects; its row of the table."""
    names = injected(function)
    fio = lab.start_fio()
    lab.wait_progress(20)
    since, log_mark = time.monotonic(), len(lab.database.log_text()) if lab.database else 0
    commits = lab.database.load.mark() if lab.database else None
    try:
        words = function(lab, choice)
    except harness.Skip:
        fio.end()
        raise
    if fio.process.poll() is not None:
        fio.end()
    lab.wait_progress()
    lab.wait_devices()
    until = time.monotonic()
    fio.end()
    check_errors(lab, names, since, log_mark)
    gaps = [loads.longest_gap(ledger.times, since, until) for ledger in lab.ledgers.values()]
    return Row(name, words, fio.stall_s, max(gaps), lab.database.load.longest_gap(commits) if lab.database else None)


def draw(choice, count, wanted):
    """The order: rounds of all of them, each round shuffled anew."""
    order = []
    while len(order) < count:
        one = list(wanted)
        choice.shuffle(one)
        order += one
    return order[:count]


def table(rows, seed):
    """How many there were, and the longest stall of each kind of fault, as lines."""
    lines = [f"# {len(rows)} faults of {len({row.name for row in rows})} kinds, seed {seed}; the longest stalls:",
             f"# {'fault':20} {'count':>5} {'fio s':>8} {'ledger s':>8} {'commit s':>8}  longest with"]
    for name in sorted({row.name for row in rows}):
        mine = [row for row in rows if row.name == name]
        worst = max(mine, key=lambda row: max(row.fio_s, row.ledger_s))
        database = [row.database_s for row in mine if row.database_s is not None]
        lines.append(f"# {name:20} {len(mine):5} {max(row.fio_s for row in mine):8.2f} "
                     f"{max(row.ledger_s for row in mine):8.2f} "
                     f"{f'{max(database):8.2f}' if database else '       -'}  {worst.words}")
    return lines


def run_all(lab, order, seed, end=None, say=print):
    """Rows, the names that were told otherwise, and the failure that ended it, or None. A cluster that failed once is not
    tried on."""
    rows, skipped = [], set()
    for number, (name, function) in enumerate(order):
        if end and time.monotonic() > end:
            break
        try:
            row = run_one(lab, name, function, random.Random(f"{seed}-{number}"))
        except harness.Skip as why:
            if name not in skipped:
                say(f"SKIP {name}: {why}")
            skipped.add(name)
            continue
        except Exception as why:  # whatever it was, the seed reproduces it
            traceback.print_exc()
            return rows, skipped | {name}, f"number {number}, {name}, seed {seed}: {why}"
        rows.append(row)
        stalls = f"fio {row.fio_s:.2f} s, ledger {row.ledger_s:.2f} s"
        if row.database_s is not None:
            stalls += f", commits {row.database_s:.2f} s"
        say(f"# {number:3} {name}: {row.words}{': ' if row.words else ''}stalls: {stalls}")
    return rows, skipped, None


def finish(lab, seed):
    """Everything is detached and read once more; what is wrong, or None."""
    try:
        lab.close()
    except Exception as why:  # whatever it was
        traceback.print_exc()
        return f"the end, seed {seed}: {why}"
    return None


def keep_logs(scratch):
    """Everything that says what happened, out of the folder that goes. Not the pools and simulated disks."""
    logs = harness.ROOT / "build" / "logs"  # beside those of tests/run, which removes its temporary folder
    kept = pathlib.Path(tempfile.mkdtemp(prefix="mooring-faults-", dir=logs if logs.is_dir() else "/tmp"))
    for folder, folders, files in os.walk(scratch.path):
        folders[:] = [name for name in folders if not name.endswith((".fuse", ".pool", "mysql", "fuse"))]
        for path in (pathlib.Path(folder) / name for name in files if "log" in name or name.endswith(".json")):
            if path.is_file() and path.stat().st_size < 256 << 20:
                place = kept / path.relative_to(scratch.path)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)
    return kept
