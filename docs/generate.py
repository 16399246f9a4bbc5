#!/usr/bin/env python3
"""Write the pages of docs/ that are made from the source; with --check, fail where one has drifted.

variables.md from the roles' argument specs, errors.md from edge_rotator/errors.py, cli.md from the
help texts in edge_rotator/cli.py, reliability.md from the table of faults and from what `make faults` saw,
cost.md from Litestream's profiles and from what `make bench-cost` measured.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edge_rotator import cli as command_line  # noqa: E402
from edge_rotator import errors, schedule  # noqa: E402
from plugins.module_utils import litestream_config  # noqa: E402

ROLES = ["pkcs11", "device_identity", "litestream", "edge_rotator", "sample_app", "edge_pull"]
RETRIES = {
    errors.TRANSIENT: f"within {schedule.FIRST_BACKOFF / 60:.0f}, 2, 4 … {schedule.MAX_BACKOFF / 60:.0f} min",
    errors.PERMANENT: f"every {schedule.MAX_BACKOFF / 60:.0f} min",
    errors.LATCH: "not until the PIN file changes",
    errors.NONE: "at the next tick",
}


def plain(text: str) -> str:
    """Ansible's markup as Markdown, fit for a table cell."""
    text = re.sub(r"[CIOV]\(([^)]*)\)", r"`\1`", text)
    return text.replace("|", "\\|").replace("\n", " ")


def shown(value: Any) -> str:
    """Show a default as it is written in YAML; what is computed is only said to be so."""
    if isinstance(value, str) and "{{" in value:
        return "`inventory_hostname`" if "inventory_hostname" in value else "derived"
    if value in ("", [], {}):
        return "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def table(role: str) -> list[str]:
    """Heading, purpose and variables of one role."""
    spec = yaml.safe_load((ROOT / f"roles/{role}/meta/argument_specs.yml").read_text())
    main = spec["argument_specs"]["main"]
    lines = [f"## {role}", "", *map(plain, main["description"]), ""]
    lines += ["| variable | type | default | meaning |", "|---|---|---|---|"]
    for name, option in main["options"].items():
        kind = option["type"]
        if "choices" in option:
            kind = ", ".join(f"`{choice}`" for choice in option["choices"] if choice)
        elif kind == "list":
            kind = f"list of {option['elements']}"
        meaning = plain(str(option["description"]))
        lines.append(f"| `{name}` | {kind} | {shown(option['default'])} | {meaning} |")
    return [*lines, ""]


def variables() -> str:
    """Put the page of the variables together."""
    lines = [
        "# Variables",
        "",
        "Made by `make docs` from `roles/*/meta/argument_specs.yml`; a test fails where it drifts.",
        "Variables marked *Set by edge_litestream.appliance.site* follow another role's: set that one",
        "instead (`playbooks/tasks/appliance.yml` shows which); a play stops where one of them is set in the",
        "inventory.",
        "",
    ]
    for role in ROLES:
        lines += table(role)
    return "\n".join(lines).rstrip() + "\n"


def error_table() -> str:
    """Put the page of the error classes together."""
    lines = [
        "# Exit codes and error classes",
        "",
        "Made by `make docs` from `edge_rotator/errors.py`; a test fails where it drifts.",
        "",
        "The class is the name for machines: `error=` in the journal, `last_error.class` in",
        "`edge-rotator status --json`, the label `class` of `edge_rotator_attempts_total`. The code is the",
        "exit code of `edge-rotator rotate` and `edge-rotator csr`. Neither ever changes its meaning.",
        "0 is success, 2 a wrong command line. `due`, `status` and `doctor` have exit codes of their",
        "own: see [cli.md](cli.md).",
        "",
        "| code | class | next attempt | fix |",
        "|---|---|---|---|",
    ]
    for kind in sorted(errors.KINDS.values(), key=lambda kind: kind.exit_code):
        fix = kind.fix.replace("|", "\\|")
        lines.append(f"| {kind.exit_code} | `{kind.name}` | {RETRIES[kind.retry]} | {fix} |")
    lines += [
        "",
        "A wait *within* so many minutes is drawn anew each time, between half of them and all, or a fleet",
        "that was refused together would ask again together. To *every* 15 min up to a tenth is added.",
        "A `Retry-After` of the provider lengthens the wait. No wait is longer than",
        f"{schedule.MAX_RETRY_AFTER / 3600:.0f} h. Where `expected_lifetime` is below 15 min, the first is",
        "within a fifteenth of it. Every wait but that for a new PIN also ends when configuration,",
        "certificate, CA bundle or key file change, when the clock is set, when the credentials are lost,",
        "and with a boot; that after `answer_short_lived` also when the credentials held have run out.",
        "",
        "After repairing what needs somebody (every 15 min), end the wait with",
        f"`{errors.FORCE}`. It ends every wait but that for a",
        "new PIN. `status` says how long the next attempt waits and for what.",
    ]
    return "\n".join(lines) + "\n"


def cli() -> str:
    """Put the page of the command line together, from what `--help` prints."""
    os.environ["COLUMNS"] = "80"
    top = command_line.parser()
    commands = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    lines = [
        "# The command `edge-rotator`",
        "",
        "Made by `make docs` from the help texts; a test fails where it drifts.",
    ]
    for parser in (top, *commands.choices.values()):
        lines += ["", f"## {parser.prog}", "", "```text", parser.format_help().rstrip(), "```"]
    return "\n".join(lines) + "\n"


def seconds(row: dict[str, Any], key: str) -> str:
    """Show how long it took on each device: environment mode, process mode."""
    shown = [f"{row[mode][key]} s" if row[mode][key] is not None else "never" for mode in sorted(row)]
    return ", ".join(shown)


def fault_row(fault: dict[str, Any], seen: dict[str, Any]) -> str:
    """Show one fault: what the table asks for, and what was seen."""
    status, alert = fault.get("status"), fault.get("alert")
    says = told = "-"
    if status:
        says = f"{status['level']}: {status['says']}"
        told = f"{status['within_s']} s"
    well = f"{fault['ok_within_s']} s"
    if fault["name"] in seen:
        row = seen[fault["name"]]
        told += f" ({seconds(row, 'told_s')})" if status else ""
        well += f" ({seconds(row, 'well_s')})"
    else:
        well += " (not run)"
    doctor = ", ".join(f"`{line}: {kind}`" for line, kind in (fault.get("doctor") or {}).items()) or "-"
    heals = "somebody" if fault.get("mend") else "by itself"
    fires = f"`{alert['name']}` within {alert['within_min']} min" if alert else "-"
    cells = [fault["what"], says, told, doctor, heals, well, fires, str(fault.get("lost", 0))]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def soak_lines(path: Path) -> list[str]:
    """Tell what the longest soak came to."""
    if not path.exists():
        return []
    run = yaml.safe_load(path.read_text())
    healed, faults, devices = run["longest_heal_s"], run["faults"], run["devices"]
    worst = max(healed, key=healed.get)
    ill = ", ".join(f"`{kind}`" for kind in run["not_healed"]) or "none"
    lines = [
        "## Soak",
        "",
        "`make soak MINUTES=n` writes rows, rotates as often as the stand-in allows, draws faults from a",
        "seed, lets each heal, and at the end restores every replica and compares. The longest run so far:",
        f"`make soak MINUTES={run['minutes']:.0f} DEVICES={len(devices)} SEED={run['seed']}` at version",
        f"{run['version']}, {run['date']}, with credentials that live {run['lifetime_s']} s.",
        "",
        f"- rotations: {run['rotations']}",
        f"- faults: {sum(faults.values())} of {len(faults)} kinds; one of all devices counts for each",
        f"- longest time to heal: {healed[worst]:.1f} s, after `{worst}`",
        f"- not healed within {run['heals_within_s']} s: {ill}",
        f"- rows written: {run['rows_written']}, lost: {run['rows_lost']}",
        f"- requests refused outside of faults: {run['refused_outside']}",
        *(f"- note: {note}" for note in run["notes"]),
        "",
        "| fault | times | longest time to heal |",
        "|---|---|---|",
    ]
    for kind, times in sorted(faults.items()):
        longest = f"{healed[kind]:.1f} s" if kind in healed else "-"
        lines.append(f"| {kind} | {times} | {longest} |")
    return [*lines, ""]


def power_cut_lines(path: Path) -> list[str]:
    """Tell what the power cuts of an emulated board took."""
    if not path.exists():
        return []
    runs = yaml.safe_load(path.read_text())["runs"]
    lines = [
        "## Power cuts",
        "",
        "`make power-cuts CUTS=n` kills an emulated board at random moments while ten rows a second are",
        "written, and credentials rotate every few seconds or a converge changes the board, Litestream's",
        "version included. The board loses what it had not sent to its disk; what the disk had taken is",
        "kept, so a disk that lies about that is not shown. A row counts as acknowledged when the writer had",
        "told it over the network. After each cut the board has to come up by itself.",
        "",
        f"Together: {sum(run['cuts'] for run in runs)} cuts, {sum(run['rows_acknowledged'] for run in runs)} "
        f"rows acknowledged, {sum(run['rows_lost'] for run in runs)} lost.",
        "",
        "| run | board, `synchronous` | cuts | under way | rows acknowledged | lost | no prefix | corrupt "
        "| in the replica alone | replicas that differ | broken | not well | longest boot, until well |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        under_way = f"{run['rotations']} rotations"
        if run["beside"] == "converges":
            under_way = f"{run['converges_cut']} converges"
        counted = ("rows_acknowledged", "rows_lost", "cuts_with_holes", "corrupt", "rows_only_in_replica")
        cells = [
            f"{run['date']}, {run['version']}, seed {run['seed']}",
            f"{run['board']}, {run['synchronous']}",
            str(run["cuts"]),
            under_way,
            *(str(run[name]) for name in (*counted, "replicas_that_differ")),
            str(len(run["broken"])),
            str(run["not_well"]),
            f"{run['longest_boot_s']} s, {run['longest_well_s']} s",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def board_lines(path: Path) -> list[str]:
    """Lay out which boards were taken from bare to replicating, per release."""
    if not path.exists():
        return []
    run = yaml.safe_load(path.read_text())
    lines = [
        "## Boards",
        "",
        "`make test-arm` is to take bare boards to replicating devices: QEMU's emulation of a Cortex-A72,",
        "with a kernel, a clock and a TPM of its own. Times are an emulation's, and no board's.",
        "",
        "| version | board | backend, mode | bare Python | tick | rotation | its memory | Litestream's |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for board in run["boards"].values():
        times = [f"{board[what]['wall_s']} s" for what in ("python", "tick", "rotation")]
        memory = [f"{board[what]['memory_mb']} MB" for what in ("rotation", "litestream")]
        cells = [board["version"], board["board"], board["how"], *times, *memory]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def gap_lines(path: Path) -> list[str]:
    """Tell how long replication paused, per mode and load."""
    if not path.exists():
        return []
    run = yaml.safe_load(path.read_text())
    lines = [
        "## The gap between uploads",
        "",
        f"`make bench-gap MINUTES={run['minutes']:g}`, {run['date']}: all variants at once on one host, by",
        "the log of the stand-in for S3. *alone* is Litestream with credentials that do not lapse, and",
        "*restarted* the same, restarted as often as in environment mode. *at change* is the median of the",
        "gaps in which a rotation, or a restart, lies; without any, of all.",
        "",
        "| load | variant | changes | largest | median | p99 | at change | bytes per row | refused |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in run["cells"]:
        at_change = cell["median"] if cell["at_change"] is None else cell["at_change"]
        gaps = [f"{value:.2f} s" for value in (cell["largest"], cell["median"], cell["p99"], at_change)]
        words = [run["loads"][cell["load"]], cell["variant"], str(cell["changes"]), *gaps]
        lines.append("| " + " | ".join([*words, f"{cell['bytes_per_row']:.0f}", str(cell["refused"])]) + " |")
    return [*lines, "", *(f"Note: {note}." for note in run.get("notes", [])), ""]


def reliability() -> str:
    """Put the page of the faults together."""
    table = yaml.safe_load((ROOT / "molecule/faults/table.yml").read_text())
    run = yaml.safe_load((ROOT / "docs/reliability.yml").read_text())
    lines = [
        "# Reliability",
        "",
        "Made by `make docs` from `molecule/faults/table.yml` and from what `make faults` saw on booted",
        f"machines: version {run['version']}, {run['date']}, Debian 12 in environment mode and Debian 13 in",
        "process mode, credentials that live one minute. A test fails where it drifts.",
        "",
        "*Told within*: so soon `edge-rotator status` says so, counted from the next attempt where the",
        "fault concerns the provider or the token; in brackets what was measured, in environment and in",
        "process mode. *Well within*: so long after the end of the fault status is `ok` again; *heals* tells",
        "whether somebody has to do something besides. After each group of faults every row of the databases",
        "was compared with what a restore from S3 gives; *lost* is what was missing.",
        "What to do is in [troubleshooting.md](troubleshooting.md), by the words that status says.",
        "",
    ]
    for group, faults in table.items():
        lines += [f"## {group.capitalize()}", ""]
        lines += ["| fault | status | told within | doctor | heals | well within | alert | lost |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        lines += [fault_row(fault, run["faults"]) for fault in faults]
        lines += [""]
    folder = ROOT / "docs/reliability"
    lines += board_lines(folder / "board.yml") + power_cut_lines(folder / "power-cuts.yml")
    lines += soak_lines(folder / "soak.yml") + gap_lines(folder / "gap.yml")
    return "\n".join(lines).rstrip() + "\n"


# US dollars for a request to S3 Standard in us-east-1, and when that was so. Deletions cost nothing.
PRICES = {"PUT": 5e-6, "LIST": 5e-6, "GET": 4e-7}
PRICES_OF = "2026-11"
DAYS = 30.4  # of a month
LIFETIMES = {"15 min": 900, "1 h": 3600, "12 h": 43200}


def amount(number: float) -> str:
    """Show bytes."""
    step = 1000
    for unit in ("B", "kB", "MB"):
        if number < step:
            return f"{number:.3g} {unit}"
        number /= step
    return f"{number:.1f} GB"


def profile_row(name: str) -> list[str]:
    """Show what a profile sets, written out with the defaults below it."""
    whole = litestream_config.render({"dbs": [{}]}, "0.5.17", profile=name)
    levels = ", ".join(level["interval"] for level in whole["levels"])
    keys = ("l0-retention", "l0-retention-check-interval")
    snapshot = whole["snapshot"]
    return [
        f"`{name}`",
        whole["dbs"][0].get("monitor-interval", "1s"),
        levels,
        *(whole[key] for key in keys),
        snapshot["interval"],
        snapshot["retention"],
    ]


def cost_row(name: str, run: dict[str, Any]) -> list[str]:
    """Show what a profile costs in a day, and its requests in a month."""
    seen = run["profiles"][name]
    counts = seen["requests"]
    dollars = DAYS * sum(counts[kind] * price for kind, price in PRICES.items())
    wire = seen["wire_up"] + seen["wire_down"]
    anew = wire + counts["PUT"] * run["rotation_wire_bytes"]
    requests = [f"{counts[kind]:,}" for kind in ("PUT", "LIST", "GET", "DELETE")]
    flash = [amount(seen["flash"][unit]) for unit in ("litestream", "sample-app")]
    return [f"`{name}`", *requests, amount(wire), amount(anew), *flash, f"{dollars:.2f}"]


def cost() -> str:
    """Put the page of the costs together."""
    run = yaml.safe_load((ROOT / "docs/cost.yml").read_text())
    rotation = run["rotation_wire_bytes"]
    lines = [
        "# What a device costs",
        "",
        "Made by `make docs` from Litestream's profiles and from what `make bench-cost` measured in",
        "the lab; a test fails where it drifts.",
        "",
        "One variable, `litestream_profile`, per device or group, chooses how often a database is",
        "looked at, compacted and uploaded as a whole. What `litestream_config` and `edge_databases`",
        "say themselves wins.",
        "",
        "| profile | `monitor-interval` | `levels` | `l0-retention` | its check | snapshot | its retention |",
        "|---|---|---|---|---|---|---|",
        *("| " + " | ".join(profile_row(name)) + " |" for name in litestream_config.PROFILES),
        "",
        "`monitor-interval` is what counts: at each look, all that was written since the last one",
        "becomes one file, and each file is one PUT. It is also what is lost with a device that is",
        "lost. `sync-interval` only says when the files that there are go out: at 1m, sixty files go",
        "out each minute, and nothing is saved.",
        "",
        "## Measured",
        "",
        f"Per day and device: Litestream {run['litestream']}, one database, a row every",
        f"{run['row_every_s']:g} s. `make bench-cost MINUTES={run['minutes']:g}`, {run['date']},",
        "process mode. The intervals and the application ran faster by the number that the last",
        "column names, so that each run was of as many hours; requests are by the log of the",
        "stand-in for S3, bytes on the wire by the device's cable, all layers included. Snapshots and",
        "rotations are not in it: see below.",
        "",
        "| profile | PUT | LIST | GET | deletions | on the wire | with a new connection for each PUT"
        " | flash, Litestream | flash, application | US$ a month | measured |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, seen in run["profiles"].items():
        measured = f"{seen['hours']:g} h, {seen['faster']} times faster"
        lines.append("| " + " | ".join([*cost_row(name, run), measured]) + " |")
    lines += [
        "",
        "Here the connection to S3 stays open between two PUTs. AWS does not say how long S3 keeps",
        "one that is idle; the column beside it has a TLS handshake for each PUT, as large as that of",
        "a rotation. What you will see lies between the two. Flash is what Linux counts for the",
        "process, before what the file system adds.",
        "",
        f"US dollars: requests alone, S3 Standard in us-east-1 in {PRICES_OF}: 0.005 for 1,000 PUT or LIST,",
        "0.0004 for 1,000 GET, nothing for deletions. Storage and what leaves AWS at a restore come on top.",
        "",
        *(f"- note: {note}" for note in run.get("notes", [])),
        "",
        "## Snapshots",
        "",
        "A snapshot uploads the whole database, compressed, once per interval and database.",
        "On a metered link this is most of the traffic of a large database. Computed, not measured:",
        "",
        "| profile | snapshots a month | a database of 100 MB that packs to half: a month |",
        "|---|---|---|",
    ]
    for name in litestream_config.PROFILES:
        whole = litestream_config.render({"dbs": [{}]}, "0.5.17", profile=name)
        times = DAYS * 86400 / (litestream_config.seconds(whole["snapshot"]["interval"]) or 1)
        lines.append(f"| `{name}` | {times:.1f} | {amount(times * 50e6)} |")
    lines += [
        "",
        "## Rotations",
        "",
        f"A rotation took {amount(rotation)} on the wire, mutual TLS and all. Their number follows",
        "from the life time that the role alias grants (`edge_rotator_expected_lifetime`, by the",
        "playbook `cloud`), which is the fleet's and in no profile: a metered device in a fleet of",
        "short lives needs a role alias of its own.",
        "",
        "| life time | rotations a day, process mode | bytes a day | environment mode | bytes a day |",
        "|---|---|---|---|---|",
    ]
    for text, lifetime in LIFETIMES.items():
        cells = [text]
        for mode in ("process", "environment"):
            # The mean of the spread.
            times = 86400 / (schedule.due_after(lifetime, mode, min(300, lifetime / 3), "") or 1)
            cells += [f"{times:.0f}", amount(times * rotation)]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "In environment mode each rotation also restarts Litestream, which looks, uploads and lists at each",
        "start: with `metered` and `hourly` use process mode.",
    ]
    return "\n".join(lines) + "\n"


PAGES = {
    "variables.md": variables,
    "errors.md": error_table,
    "cli.md": cli,
    "reliability.md": reliability,
    "cost.md": cost,
}


def main() -> int:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    drifted = 0
    for name, page in PAGES.items():
        target = ROOT / "docs" / name
        if not check:
            target.write_text(page())
        elif not target.is_file() or target.read_text() != page():
            print(f"{target} does not show its source any more: run make docs", file=sys.stderr)
            drifted = 1
    return drifted


if __name__ == "__main__":
    raise SystemExit(main())
