"""Whoever is told to end in the middle of a login ends after it: a token's file is never left empty."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import SOFTHSM, Device

from edge_rotator import token

# SoftHSM with a login that is slow where it counts: the file is empty while the signal arrives.
SLOW = """
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
struct list { unsigned char version[sizeof(void *)]; void *call[68]; };
enum { LOGIN = 18 };
static long (*login)(unsigned long, unsigned long, unsigned char *, unsigned long);
static long slow(unsigned long session, unsigned long user, unsigned char *pin, unsigned long length)
{
    static char data[65536];
    int file = open(getenv("TOKEN_OBJECT"), O_RDWR);
    ssize_t size = read(file, data, sizeof data);
    if (size <= 0 || ftruncate(file, 0))
        abort();
    kill(getenv("TO_PARENT") ? getppid() : getpid(), atoi(getenv("SIGNAL")));
    usleep(500000);
    if (pwrite(file, data, size, 0) != size)
        abort();
    close(file);
    return login(session, user, pin, length);
}
long C_GetFunctionList(struct list **out)
{
    static struct list ours;
    struct list *real;
    void *library = dlopen(getenv("REAL_MODULE"), RTLD_NOW | RTLD_LOCAL);
    long (*get)(struct list **) = (long (*)(struct list **))dlsym(library, "C_GetFunctionList");
    long code = get(&real);
    if (code)
        return code;
    ours = *real;
    login = (long (*)(unsigned long, unsigned long, unsigned char *, unsigned long))ours.call[LOGIN];
    ours.call[LOGIN] = (void *)slow;
    *out = &ours;
    return 0;
}
"""


def token_object(device: Device) -> Path:
    (found,) = (device.root / "tokens").rglob("token.object")
    return found


def slow_login(device: Device, number: int, **more: str) -> None:
    """Have every login interrupted by this signal."""
    module = device.root / "slow.so"
    compiler = ["gcc", "-w", "-shared", "-fPIC", "-x", "c", "-", "-o", str(module), "-ldl"]
    subprocess.run(compiler, input=SLOW.encode(), check=True)
    environment = device.tables["token"]["environment"] | {
        "TOKEN_OBJECT": str(token_object(device)),
        "REAL_MODULE": SOFTHSM,
        "SIGNAL": str(int(number)),
    }
    device.configure(token={"module": str(module), "environment": environment | more})


def assert_whole(device: Device, size: int) -> None:
    """The token holds what it held, and logs in."""
    for _ in range(50):
        if token_object(device).stat().st_size == size:
            break
        time.sleep(0.1)
    assert token_object(device).stat().st_size == size
    device.configure(token={"module": SOFTHSM})
    device.touched()
    assert device.run("doctor", "--login").stdout.count("ok ") > 10
    assert device.run("rotate", "--force").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize(
    "arguments", [("rotate", "--force"), ("rotate", "--dry-run"), ("csr",)], ids=" ".join
)
def test_a_run_stopped_in_its_login(arguments: tuple[str, ...], number: int, device: Device) -> None:
    size = token_object(device).stat().st_size
    slow_login(device, number)
    done = device.run(*arguments)
    assert done.returncode == (130 if number == signal.SIGINT else -number), done.stderr
    assert_whole(device, size)


def test_a_doctor_left_by_ctrl_c_in_a_login(device: Device) -> None:
    size = token_object(device).stat().st_size
    slow_login(device, signal.SIGINT, TO_PARENT="1")
    done = device.run("doctor", "--login")
    assert done.returncode == 130
    assert "login" not in done.stdout
    assert_whole(device, size)


def test_afterwards_signals_are_as_before() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(KeyError), token.unstoppable():
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        raise KeyError
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
