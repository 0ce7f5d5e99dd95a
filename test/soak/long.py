"""The same for a long time: nothing grows, nothing is lost."""

import random
import re
import socket
import threading
import time

import lab as laboratory

from trial import IN_PORT, LOCAL_PORT, Watch, test


@test("rate: short connections, as often as it goes", lambda sizes: 60 + 2 * sizes.rate_seconds)
def rate(trial):
    # A client's closed connections keep their ports for a minute: there must be more than one can use up.
    trial.echo(7001, ports=40)
    subject = trial.subject()
    before, seconds = subject.descriptors(), trial.sizes.rate_seconds
    with Watch(subject, period=max(0.1, seconds / 1000)) as watch:
        done = trial.lab.traffic(subject.guest, "tcp-crr", "--connect", f"{laboratory.REMOTE4}:7001", "--ports", 40,
                                 "--count", 1 << 30, "--parallel", 32, "--begin-for", int(seconds), "--seconds",
                                 int(seconds) + 20, timeout=seconds + 40)
    early, late = watch.most(1, 0, 0.3), watch.most(1, 0.7)
    files, more = watch.most(2, 0, 0.3), watch.most(2, 0.7)
    trial.figure(f"{done['count']:,} connections, {done['per_second']:,.0f} a second for {seconds:.0f} s, p99 "
                 f"{done['p99_us'] / 1000:.1f} ms, {done['failed']} failed")
    trial.figure(f"memory {early:.1f} MiB at most in the first third, {late:.1f} in the last; descriptors {files} and "
                 f"{more}")
    trial.need(done["failed"] == 0, f"{done['failed']} connections failed")
    trial.need(late <= early * 1.05 + 2, f"memory grew from {early:.1f} to {late:.1f} MiB")
    trial.need(more <= files * 1.2 + 100, f"descriptors grew from {files} to {more}")
    left = settled(subject, before + 20)
    trial.need(left <= before + 20, f"{left - before} descriptors were left open")
    subject.works("afterwards")


@test("mixed: everything at once, each byte compared", lambda sizes: 90 + 1.2 * sizes.mixed_seconds)
def mixed(trial):
    subject = trial.subject("-m", "1500")
    trial.echo(7001, ports=8)
    steady, before = subject.connected(), subject.descriptors()
    work = Work(trial, subject)
    began = time.monotonic()
    with Watch(subject, period=max(0.1, trial.sizes.mixed_seconds / 2000)) as watch:
        work.run(trial.sizes.mixed_seconds)
    trial.figure(f"{time.monotonic() - began:.0f} s: {work.bytes / 1e9:,.1f} GB of TCP in {work.transfers:,} transfers, "
                 f"{work.short:,} short connections, {work.trips:,} round trips, {work.datagrams:,} datagrams "
                 f"({work.lost} lost)")
    early, late = watch.most(1, 0, 0.3), watch.most(1, 0.7)
    trial.figure(f"memory {early:.1f} MiB at most in the first third, {late:.1f} in the last")
    for what in sorted(set(work.wrong)):
        trial.need(False, f"{what} ({work.wrong.count(what)} times)")
    trial.need(work.bytes > 0 and work.transfers > 0, "nothing was transferred")
    trial.need(late <= early * 1.1 + 4, f"memory grew from {early:.1f} to {late:.1f} MiB")
    subject.lives(steady, "afterwards")
    # UDP flows live for two minutes after their last datagram.
    trial.need(settled(subject, before + 300) <= before + 300, "descriptors were left open")
    subject.works("afterwards")


class Work:
    """Several kinds of traffic, one thread each, until the time is over."""

    def __init__(self, trial, subject):
        self.trial, self.lab, self.guest = trial, trial.lab, subject.guest
        self.bytes = self.transfers = self.short = self.trips = self.datagrams = self.lost = 0
        self.wrong, self.seed = [], 0
        self.size = min(100_000_000, trial.bytes // 4)
        remote, host = self.lab.remote, self.lab.host
        self.kinds = [
            lambda: self.stream("TCP out, IPv4", self.guest, remote, laboratory.REMOTE4, laboratory.REMOTE4, 7101),
            lambda: self.stream("TCP out, IPv6", self.guest, remote, f"[{laboratory.REMOTE6}]",
                                f"[{laboratory.REMOTE6}]", 7102),
            lambda: self.stream("TCP in, IPv4", remote, self.guest, laboratory.HOST4, "0.0.0.0", IN_PORT),
            lambda: self.stream("TCP in, IPv6", remote, self.guest, f"[{laboratory.HOST6}]", "[::]", 5203),
            self.connections, self.round_trips, self.udp]
        if trial.link == "tap":
            self.kinds += [
                lambda: self.stream("loopback in", host, self.guest, "127.0.0.1", "0.0.0.0", 5204),
                lambda: self.stream("loopback out", self.guest, host, "127.0.0.1", "127.0.0.1", LOCAL_PORT)]

    def run(self, seconds):
        self.deadline = time.monotonic() + seconds
        threads = [threading.Thread(target=self.repeat, args=(kind,), daemon=True) for kind in self.kinds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds + 60)
            if thread.is_alive():
                self.wrong.append("one kind of traffic did not come to its end")

    def repeat(self, kind):
        while time.monotonic() < self.deadline and len(self.wrong) < 50:
            try:
                kind()
            except Exception as error:  # pylint: disable=broad-except
                self.wrong.append(str(error)[:200])
            time.sleep(0.05)

    def stream(self, what, client, server, to, at, port):
        """Both directions at once, with other contents each time."""
        self.seed += 100
        common = ["--send", self.size, "--seconds", 50]
        try:
            with self.lab.service(server, "stream", "--listen", f"{at}:{port}", "--seed", self.seed, *common) as service:
                mine = self.lab.traffic(client, "stream", "--connect", f"{to}:{port}", "--seed", self.seed + 1, *common)
                theirs = service.result()
            if theirs is None:
                raise RuntimeError("lab: the server did not get all")
            one, other = mine["streams"][0], theirs["streams"][0]
        except Exception as error:
            # The same each time, but for how far it came.
            told = re.sub(r"after \d+ bytes", "before the end", str(error).rsplit("lab: ", 1)[-1])
            raise RuntimeError(f"{what}: {told}"[:200]) from error
        good = one["sent_hash"] == other["received_hash"] and other["sent_hash"] == one["received_hash"]
        if not good or one["received"] != self.size or other["received"] != self.size:
            self.wrong.append(f"{what}: what arrived is not what was sent")
        self.bytes += one["received"] + other["received"]
        self.transfers += 2

    def connections(self):
        done = self.lab.traffic(self.guest, "tcp-crr", "--connect", f"{laboratory.REMOTE4}:7001", "--ports", 8, "--count",
                                1000, "--parallel", 8)
        self.short += done["count"]
        if done["failed"]:
            self.wrong.append(f"{done['failed']} short connections failed")

    def round_trips(self):
        done = self.lab.traffic(self.guest, "tcp-rr", "--connect", f"{laboratory.REMOTE4}:7001", "--count", 1000, "--size",
                                300)
        self.trips += done["count"]

    def udp(self):
        """Datagrams of all sizes; one may be lost on the way, none may be another."""
        with self.guest.socket(socket.AF_INET, socket.SOCK_DGRAM, timeout=1) as flow:
            flow.connect((laboratory.REMOTE4, 7002))
            for _ in range(200):
                question = random.randbytes(random.choice((1, 20, 500, 1400, 1472, 1473, 3000, 9000, 30_000)))
                flow.send(question)
                self.datagrams += 1
                try:
                    answer = flow.recv(65_536)
                except TimeoutError:
                    # Lost, or late: then it would be taken for the answer to the next one.
                    self.lost += 1
                    return
                if answer != question:
                    self.wrong.append("a datagram came back changed")


def settled(subject, wanted, seconds=15):
    """Descriptors, once they are as few as wanted or time is over."""
    deadline = time.monotonic() + seconds
    while subject.descriptors() > wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return subject.descriptors()
