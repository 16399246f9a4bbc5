"""Run commands in turn and print what each run cost, as JSON.

A process of its own, small and without imports to speak of: the kernel counts the memory of whoever
starts a program into that program's peak.
"""

import json
import os
import sys
import time

TIMEOUT = 30.0  # s per run


def once(argv: list[str], env: dict[str, str], remove: str, expected: int) -> dict[str, float]:
    """Run one command; return wall and CPU time (ms) and peak memory (MiB)."""
    try:  # noqa: SIM105
        os.unlink(remove)  # noqa: PTH108
    except FileNotFoundError:
        pass
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    start = time.perf_counter()
    pid = os.posix_spawn(argv[0], argv, env, file_actions=quiet)
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status) != expected:
        raise SystemExit(f"exit status {status}: {' '.join(argv)}")
    return {
        "wall": wall * 1000,
        "cpu": (usage.ru_utime + usage.ru_stime) * 1000,
        "memory": usage.ru_maxrss / 1024,
    }


def main() -> None:
    """Read `{"rounds": N, "commands": {name: {argv, env, remove, expected}}}` from stdin."""
    plan = json.load(sys.stdin)
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in plan["commands"]}
    for number in range(plan["rounds"] + 1):
        for name, command in plan["commands"].items():
            sample = once(**command)
            if number:  # the first round warms the caches
                samples[name].append(sample)
    json.dump(samples, sys.stdout)


if __name__ == "__main__":
    main()
