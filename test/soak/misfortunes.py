"""What may happen to a process: signals, long pauses, the end of those it works for."""

import contextlib
import os
import random
import signal
import subprocess
import time

import lab as laboratory

from trial import Transfer, test

# Ignored by us, or by anybody unless asked for; and those that whoever starts us has ignored, as nohup(1) does, which
# others take all the same.
HARMLESS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG, signal.SIGCONT)
GUARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)


@test("signals: storms of those that mean nothing to it", lambda sizes: 60 + 4 * sizes.storm_seconds)
def signals(trial):
    trial.echo(7001)
    # The laboratory ends a machine's program in its own way, and starts it without what comes before.
    guarded = GUARDED if trial.link == "tap" and trial.program.kind == "spelt" else ()
    subject = trial.subject(ignoring=guarded)
    steady = subject.connected()
    transfers = both_ways(trial, subject)
    sent, deadline = 0, time.monotonic() + trial.sizes.storm_seconds
    while time.monotonic() < deadline and not subject.ended():
        for number in random.sample(HARMLESS + guarded, 3):
            with contextlib.suppress(ProcessLookupError):
                os.kill(subject.pid, number)
            sent += 1
        time.sleep(0.0005)
    good = all([transfer.whole("a transfer in the storm") for transfer in transfers])
    subject.lives(steady, "after the storm")
    subject.works("after the storm")
    # Each process of the program; a repeated wish to end is one wish.
    began = time.monotonic()
    for _ in range(100):
        with contextlib.suppress(ProcessLookupError):
            os.kill(subject.pid, signal.SIGTERM)
    took = ends_within(subject.process, 5, began)
    trial.figure(f"{sent:,} signals of {len(HARMLESS + guarded)} kinds during two transfers: "
                 f"{'all arrived' if good else 'data was missing'}; 100 times SIGTERM: ended in {told(took)}")
    trial.need(took is not None, "it did not end within 5 s of SIGTERM")
    nothing_left(trial, subject, "after SIGTERM")


@test("pauses: stopped and continued in mid-transfer", lambda sizes: 90 + 4 * sizes.pauses * sizes.pause_seconds)
def pauses(trial):
    trial.echo(7001)
    subject = trial.subject()
    steady = subject.connected()
    transfers, resumed = both_ways(trial, subject, 2), []
    for _ in range(trial.sizes.pauses):
        time.sleep(0.3)
        os.kill(subject.pid, signal.SIGSTOP)
        time.sleep(trial.sizes.pause_seconds)
        os.kill(subject.pid, signal.SIGCONT)
        began = time.monotonic()
        subject.lives(steady, "after a pause")
        resumed.append(time.monotonic() - began)
    subject.works("after the pauses")
    good = all([transfer.whole("a transfer with pauses") for transfer in transfers])
    trial.figure(f"{trial.sizes.pauses} pauses of {trial.sizes.pause_seconds:.1f} s: "
                 f"{'all arrived' if good else 'data was missing'}; an old connection answers "
                 f"{max(resumed) * 1000:.0f} ms after the end of one at most")


@test("killed: the guest, the command or the program itself ends in mid-transfer", lambda sizes: 90)
def killed(trial):
    trial.echo(7001)
    subject = trial.subject()
    both_ways(trial, subject, 16)
    far = watcher(trial, subject)
    time.sleep(0.3)
    inode = f"net:[{os.stat(subject.guest.path).st_ino}]"
    began = time.monotonic()
    for pid in trial.lab.inside(inode):
        # The broker of the program is inside as well: it is the program's to end.
        if not laboratory.comm(pid).startswith(("spelt", "pasta")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if trial.link == "vm":
        subject.guest.unplug()
        time.sleep(1)
        # A machine may come again; its program stays.
        trial.need(not subject.ended(), "the program ended with the machine")
        trial.figure(f"the machine's end: it stays, {subject.does_not_spin('without a machine') * 100:.0f} % of a processor")
        return
    took = ends_within(subject.process, 10, began)
    trial.figure(f"the namespace's last process killed: it ended in {told(took)}; "
                 f"its peer {'was told' if far() else 'was told nothing'}")
    trial.need(took is not None, "the program did not end with the namespace")
    nothing_left(trial, subject, "after the namespace's end")
    with_a_command(trial)


def with_a_command(trial):
    """Of `run`: the command is killed, and the program itself is."""
    for victim in ("the command", "the program"):
        guest = trial.keep(trial.lab.guest("-q", program=trial.program))
        pids = {"the command": guest.pid, "the program": guest.translator()}
        began = time.monotonic()
        os.kill(pids[victim], signal.SIGKILL)
        took = ends_within(guest.process, 5, began)
        with contextlib.suppress(TimeoutError):
            laboratory.wait_until(lambda g=guest: not alive(g.pid), 3)
        left = [name for name in pids if alive(pids[name])]
        trial.figure(f"{victim} killed: ended in {told(took)}, status {guest.process.returncode}, "
                     f"{' and '.join(left) or 'nothing'} left")
        trial.need(took is not None, f"{victim} was killed, and the rest did not end")
        trial.need(not left, f"{victim} was killed, {' and '.join(left)} lived on")


def both_ways(trial, subject, factor=1):
    size = trial.bytes * factor
    limit = int(60 + trial.sizes.pauses * trial.sizes.pause_seconds + size / 3e8)
    return [Transfer(subject, "out", size, 7101, seconds=limit), Transfer(subject, "in", size, 5201, seconds=limit)]


def watcher(trial, subject):
    """A peer of a connection that is idle; what is returned says whether it hears of the end."""
    with trial.lab.remote.listen(laboratory.REMOTE4) as listener:
        trial.keep(subject.guest.connect(*listener.getsockname()))
        far = trial.keep(listener.accept()[0])
    far.settimeout(5)

    def told_of_the_end():
        try:
            return far.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True
    return told_of_the_end


def nothing_left(trial, subject, what):
    inode = f"net:[{os.stat(trial.lab.host.path).st_ino}]"

    def remains():
        return [pid for pid in trial.lab.inside(inode) if laboratory.comm(pid).startswith(("spelt", "pasta", "passt"))]
    with contextlib.suppress(TimeoutError):
        laboratory.wait_until(lambda: not remains(), 3)
    trial.need(not remains(), f"{what}: processes are left: {[laboratory.comm(pid) for pid in remains()]}")
    trial.need(subject.ended(), f"{what}: the program lives")


def ends_within(process, seconds, began):
    """Seconds that it took since `began`; None: it did not."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    return time.monotonic() - began


def alive(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    return False


def told(seconds):
    return "–" if seconds is None else f"{seconds:.2f} s"
