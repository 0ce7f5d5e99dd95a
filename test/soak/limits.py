"""Limits: reached and left, and floods that try to take more."""

import contextlib
import random
import socket
import time

import lab as laboratory
from lab.packets import first_fragment, ipv4, tcp_syn, udp

from trial import Watch, answers, test

# Nobody in the network; the guest's kernel does not answer for it either.
STRANGER = "192.0.2.77"


@test("descriptors: all that are allowed in use, and free again", lambda sizes: 90)
def descriptors(trial):
    limit = trial.sizes.descriptors
    trial.echo(7001)
    trial.echo(7002)
    subject = trial.subject(limit=limit)
    first = [subject.connected() for _ in range(50)]
    before = subject.descriptors()

    def hold(port, count):
        return trial.lab.service(subject.guest, "hold", "--connect", f"{laboratory.REMOTE4}:{port}", "--count", count,
                                 "--refusals", 20, "--timeout-ms", 1500)
    with hold(7001, limit // 2) as half:
        rest = hold(7002, limit * 9 // 10)
        with rest:
            at_most = subject.descriptors()
            total = half.first["alive"] + rest.first["alive"] + len(first)
            trial.figure(f"{total:,} connections at {limit:,} descriptors, {at_most:,} of them open, then "
                         f"{rest.first['refused']} of {rest.first['refused']} refused")
            trial.need(total > limit * 0.9 - 130 and half.first["alive"] == limit // 2, f"only {total} connections")
            trial.need(rest.first["refused"] == 20, "connects beyond the limit were not refused")
            trial.need(all(map(answers, first)), "connections from before did not live at the limit")
            inbound(trial, subject)
            spent = subject.does_not_spin("at the limit")
            trial.need(not subject.ended(), "the program ended at the limit")
            alive = rest.stop()["alive"]
        trial.need(alive == rest.first["alive"], f"{rest.first['alive'] - alive} connections died at the limit")
        began = time.monotonic()
        with contextlib.suppress(TimeoutError):
            laboratory.wait_until(lambda: subject.descriptors() < limit * 0.7, 10)
        subject.works("after the limit")
        trial.figure(f"new flows {time.monotonic() - began:.1f} s after half of them closed; processor while full "
                     f"{spent * 100:.0f} %")
        alive = half.stop()["alive"]
        trial.need(alive == limit // 2, f"{limit // 2 - alive} of the first connections died")
    with contextlib.suppress(TimeoutError):
        laboratory.wait_until(lambda: subject.descriptors() <= before + 40, 10)
    left = subject.descriptors() - before
    trial.figure(f"{left:+} descriptors when all were closed")
    trial.need(left <= 40, f"{left} descriptors were left open")


def inbound(trial, subject):
    """A client from outside, at the limit: it is served or told, and does not hang."""
    with subject.guest.listen("0.0.0.0", 5203):
        client = trial.keep(trial.lab.remote.socket(socket.AF_INET, timeout=3))
        try:
            client.connect((laboratory.HOST4, 5203))
            client.send(b"x")
            client.recv(1)
        except TimeoutError:
            # Served: a listener that says nothing.
            trial.figure("a client from outside: connected")
        except OSError as error:
            trial.figure(f"a client from outside: {error.strerror}")
        else:
            trial.figure("a client from outside: closed")


@test("attempts: flows begun by the hundred thousand", lambda sizes: 60 + sizes.attempts / 1000)
def attempts(trial):
    count, sizes = trial.sizes.attempts, trial.sizes
    limit = min(20_000, sizes.descriptors)
    server = trial.echo(7001, ports=4)
    subject = trial.subject(limit=limit)
    steady = subject.connected()
    subject.lives(steady, "before")
    raw, ethernet = subject.raw()
    before = subject.resident()
    with Watch(subject) as watch:
        # The stranger's kernel does not exist: none of the handshakes is ever completed.
        frames = (ethernet + ipv4(STRANGER, laboratory.REMOTE4, 6, tcp_syn(1024 + nth // 4 % 64_000, 7001 + nth % 4))
                  for nth in range(count))
        began = time.monotonic()
        send_all(raw, frames)
        trial.figure(f"{count:,} SYNs in {time.monotonic() - began:.0f} s")
        subject.lives(steady, "after the SYNs")
        took = subject.works("after the SYNs")
        for _ in range(2):
            trial.lab.traffic(subject.guest, "udp-flood", "--connect", f"{laboratory.REMOTE4}:10000", "--ports",
                              min(50_000, count // 2), "--seconds", max(0.2, count / 40_000), "--rate", 40_000)
        subject.lives(steady, "after the datagrams")
        took = max(took, subject.works("after the datagrams"))
    trial.figure(f"{count:,} UDP flows; descriptors {watch.most(2):,} of {limit:,} at most; memory {before:.1f} → "
                 f"{watch.most(1):.1f} MiB at most; then a new flow of each kind took {took:.2f} s")
    trial.need(watch.most(2) <= limit, "more descriptors than there may be")
    trial.need(watch.most(1) < before + 100, f"memory grew to {watch.most(1):.0f} MiB")
    trial.need(server.process.poll() is None, "the server ended")


@test("floods: memory under what never ends", lambda sizes: 90 + 10 * sizes.flood_seconds)
def floods(trial):
    for name, flood in (("SYNs", syns), ("datagrams to many", datagrams), ("first fragments", fragments),
                        ("data nobody reads", crowd)):
        with contextlib.ExitStack() as stack:
            trial.stack, outer = stack, trial.stack
            trial.echo(7001)
            subject = trial.subject()
            steady = subject.connected()
            measure(trial, subject, steady, name, flood)
            trial.stack = outer


def measure(trial, subject, steady, name, flood):
    """Twice: what the first flood took the second must find, and not take again."""
    before, peaks = subject.resident(), []
    for _ in range(2):
        with Watch(subject) as watch:
            sent = flood(trial, subject, trial.sizes.flood_seconds)
        peaks.append(watch.most(1))
        subject.lives(steady, name)
        if subject.ended():
            return
    took = subject.works(name)
    with contextlib.suppress(TimeoutError):
        laboratory.wait_until(lambda: subject.resident() < before + 8, min(3, trial.sizes.flood_seconds))
    trial.figure(f"{name} ({sent:,} twice): {before:.1f} MiB, {peaks[0]:.1f} and {peaks[1]:.1f} at most, "
                 f"{subject.resident():.1f} after; then new flows in {took:.2f} s")
    # Of what nobody reads 96 MiB may be held, and 64 KiB for each connection beyond.
    most = 60 if flood is not crowd else 100 + trial.sizes.crowd / 16 * 1.2
    trial.need(max(peaks) < before + most, f"{name}: memory grew to {max(peaks):.0f} MiB")
    trial.need(peaks[1] <= peaks[0] * 1.1 + 4, f"{name}: the second flood took more, {peaks[1]:.0f} MiB")


def syns(_trial, subject, seconds):
    raw, ethernet = subject.raw()
    frames = [ethernet + ipv4(f"192.0.2.{150 + nth % 100}", laboratory.REMOTE4, 6, tcp_syn(1024 + nth, 7001 + nth % 7))
              for nth in range(40_000)]
    return send_for(raw, frames, seconds)


def datagrams(_trial, subject, seconds):
    raw, ethernet = subject.raw()
    chance = random.Random(1)
    frames = [ethernet + ipv4(laboratory.HOST4, f"198.51.{chance.randrange(256)}.{chance.randrange(1, 255)}", 17,
                              udp(1024 + nth % 60_000, 9000)) for nth in range(40_000)]
    return send_for(raw, frames, seconds)


def fragments(_trial, subject, seconds):
    raw, ethernet = subject.raw()
    payload = udp(9, 9, bytes(1392))
    frames = [ethernet + first_fragment(laboratory.HOST4, laboratory.REMOTE4, nth, payload) for nth in range(40_000)]
    return send_for(raw, frames, seconds)


def crowd(trial, subject, _seconds):
    """Connections of the guest to a server that never reads: what the kernel does not take is held."""
    for where in (trial.lab.host, trial.lab.remote):
        # So that little of it is in kernels, and much with the program.
        where.sysctl("net.ipv4.tcp_wmem", "4096 16384 65536")
        where.sysctl("net.ipv4.tcp_rmem", "4096 16384 65536")
    sent, count = 0, trial.sizes.crowd
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(trial.lab.remote.listen(laboratory.REMOTE4, backlog=4096))
        streams = []
        for _ in range(count):
            stream = stack.enter_context(subject.guest.connect(*listener.getsockname(), timeout=5))
            stream.setblocking(False)
            streams.append(stream)
        data, deadline, quiet = bytes(1 << 20), time.monotonic() + 20, 0
        while time.monotonic() < deadline and quiet < 3:
            taken = 0
            for stream in streams:
                with contextlib.suppress(BlockingIOError):
                    taken += stream.send(data)
            sent, quiet = sent + taken, quiet + 1 if taken < 1 << 20 else 0
            time.sleep(0.1)
    time.sleep(0.5)
    return sent


def send_for(raw, frames, seconds):
    """Over and over; returns how many."""
    deadline, sent = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        for frame in frames:
            sent += put(raw, frame)
            if sent % 500 == 0 and time.monotonic() >= deadline:
                break
    return sent


def send_all(raw, frames):
    """Each of them goes, however full the queue is; but nothing does when the interface is gone."""
    for frame in frames:
        if not any(put(raw, frame) for _ in range(2000)):
            return


def put(raw, frame):
    try:
        raw.send(frame)
        return 1
    except OSError:
        time.sleep(0.001)
        return 0
