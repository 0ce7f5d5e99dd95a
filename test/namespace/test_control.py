"""The control socket: `spelt ctl`, `spelt list`, and requests of other programs, while traffic passes."""

import json
import os
import re
import socket
import subprocess
import tempfile
import time

from lab import wait_until
from support import V4, Case, both, limit, read_exactly


class Control:
    """A connection to a control socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(15)
        self.socket.connect(path)
        self.file = self.socket.makefile("rw", encoding="utf-8")

    def close(self):
        self.file.close()
        self.socket.close()

    def reply(self, method, **params):
        json.dump({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, self.file)
        self.file.write("\n")
        self.file.flush()
        return json.loads(self.file.readline())

    def ask(self, method, **params):
        reply = self.reply(method, **params)
        if "error" in reply:
            raise AssertionError(reply["error"])
        return reply["result"]


class Controlled(Case):
    """A guest whose program has a control socket at a path of this class."""

    more = ()

    def make_guest(self):
        cls = type(self)
        cls.directory = tempfile.mkdtemp(dir=self.lab.dir)
        os.chown(cls.directory, 65534, 65534)
        cls.path = os.path.join(cls.directory, "control")
        return self.another_guest("--control", cls.path, *self.more)

    @property
    def control(self):
        self.guest.interface()
        return self.closing(Control(self.path))

    def ctl(self, *arguments, check=True, environment=(), user=True):
        argv = [self.lab.program.path, "ctl", "-i", self.path, *map(str, arguments)]
        argv = ["env", *environment, *argv]
        argv = self.lab.as_user(argv) if user else argv
        return self.lab.call(argv, check=check)


class Requests(Controlled):
    more = ("-t", "7301:80")

    def test_info_says_what_is_running(self):
        info = self.control.ask("info")
        self.assertEqual((info["protocol"], info["program"], info["workers"]), (1, "spelt", 1))
        self.assertIn(info["mode"], ("run", "attach"))
        self.assertEqual(info["pid"], self.guest.translator())
        self.assertGreater(info["uptime_seconds"], 0)

    def test_config_is_what_was_decided(self):
        config = self.control.ask("config.get")
        self.assertEqual(config["namespace_interface"], self.guest.interface())
        self.assertEqual([f["first"] for f in config["inbound"]], [7301])

    def test_counters_count(self):
        control = self.control
        before = control.ask("stats.get")
        self.guest.run("ping", "-c", "3", "-i", "0.2", V4.gateway, check=False)
        after = control.ask("stats.get")
        self.assertGreaterEqual(after["frames_from_guest"] - before["frames_from_guest"], 3)
        self.assertTrue(all(d["meaning"] for d in after["drops"]))

    @both
    def test_flow_is_shown_as_both_ends_know_it(self, net):
        near, far = self.pair(self.lab.remote, net.remote)
        self.assert_connected(near, far)
        port = near.getsockname()[1]
        flows = self.control.ask("flows.list", protocol="tcp", port=port, host=True)
        self.assertEqual(flows["total"], 1)
        flow = flows["flows"][0]
        self.assertEqual((flow["by"], flow["state"]), ("guest", "established"))
        self.assertEqual((flow["bytes_from_guest"], flow["bytes_to_guest"]), (8, 6))
        self.assertTrue(flow["guest"].endswith(f":{port}"), flow)
        self.assertTrue(flow["host"]["local"].endswith(f":{far.getpeername()[1]}"), flow)
        self.assertTrue(flow["host"]["peer"].endswith(f":{far.getsockname()[1]}"), flow)
        far.close()
        wait_until(lambda: self.state_of(port) == "host-closed", 5, "the server's end to be seen")
        near.close()
        wait_until(lambda: self.state_of(port) in (None, "time-wait"), 5, "the end")

    def state_of(self, port):
        flows = self.control.ask("flows.list", port=port)["flows"]
        return flows[0]["state"] if flows else None

    def test_datagrams_and_echo_are_flows(self):
        with self.lab.remote.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind((V4.remote, 0))
            server.settimeout(5)
            with self.guest.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(b"question", server.getsockname())
                _, peer = server.recvfrom(100)
                server.sendto(b"answer", peer)
                client.settimeout(5)
                self.assertEqual(client.recv(100), b"answer")
                flow = self.control.ask("flows.list", protocol="udp", port=client.getsockname()[1])["flows"][0]
        self.assertEqual((flow["state"], flow["bytes_from_guest"], flow["bytes_to_guest"]), ("answered", 8, 6))
        self.guest.run("ping", "-c", "1", V4.remote)
        echo = self.control.ask("flows.list", protocol="icmp", address=V4.remote)["flows"]
        self.assertEqual([f["state"] for f in echo], ["answered"])

    def test_why_a_flow_waits_is_told(self):
        near, far = self.pair(self.lab.remote, V4.remote)
        far.setblocking(False)
        sent, quiet_since = 0, time.monotonic()
        while time.monotonic() - quiet_since < 0.5:
            try:
                sent += far.send(b"x" * 100_000)
                quiet_since = time.monotonic()
            except BlockingIOError:
                time.sleep(0.02)
        flow = self.control.ask("flows.list", port=near.getsockname()[1])["flows"][0]
        self.assertEqual(flow["waits_for"], "guest's window")

    def test_several_clients_at_once_and_many_requests_of_one(self):
        clients = [self.control for _ in range(8)]
        for client in clients:
            client.file.write('{"id":1,"method":"stats.get"}\n' * 50)
            client.file.flush()
        for client in clients:
            for _ in range(50):
                self.assertEqual(json.loads(client.file.readline())["id"], 1)

    def test_nonsense_is_refused_by_number(self):
        control = self.control
        for line, code in (("nonsense", -32700), ("[1]", -32600), ('{"id":1,"method":"x"}', -32601)):
            control.file.write(line + "\n")
            control.file.flush()
            self.assertEqual(json.loads(control.file.readline())["error"]["code"], code)
        self.assertEqual(control.reply("flows.list", limit="many")["error"]["code"], -32602)

    def test_silent_clients_make_room_after_a_while(self):
        silent = [self.control for _ in range(16)]
        late = self.control
        began = time.monotonic()
        self.assertEqual(late.ask("info")["protocol"], 1)
        self.assertLess(time.monotonic() - began, 13)
        del silent

    def test_other_users_may_not_ask(self):
        os.chmod(self.directory, 0o755)
        os.chmod(self.path, 0o666)
        argv = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "--", self.lab.program.path, "ctl", "-i",
                self.path, "info"]
        try:
            done = self.lab.call(argv, check=False)
        finally:
            os.chmod(self.path, 0o600)
        # To a process that knows one user only, all others look alike, root among them: the file's mode is the guard.
        self.assertIn(done.returncode, (0, 1))
        os.chmod(self.path, 0o600)
        done = self.lab.call(argv, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("Permission denied", done.stderr)
        self.assertEqual(self.ctl("info", user=False).returncode, 0, "root may")

    def test_socket_is_its_owners_alone(self):
        self.guest.interface()
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o600)

    def test_log_level_changes_while_running(self):
        control = self.control
        self.assertEqual(control.ask("log.set", level="debug"), {"level": "DEBUG"})
        self.assertEqual(control.ask("log.get"), {"level": "DEBUG"})
        self.assertIn("none of error", control.reply("log.set", level="loud")["error"]["message"])
        control.ask("log.set", level="warn")


class Forwards(Controlled):
    more = ("-t", "7301:80")

    def test_forward_comes_and_goes(self):
        control = self.control
        added = control.ask("forward.add", forwards=[{"option": "-t", "spec": "7310:8010"}])["forwards"]
        self.assertEqual([(f["option"], f["spec"], f["open"]) for f in added], [("-t", "7310-7310:8010-8010", 1)])
        with self.guest.listen("0.0.0.0", 8010) as listener:
            for _ in range(3):
                with self.lab.remote.connect(V4.host, 7310) as client:
                    served, _ = listener.accept()
                    client.sendall(b"question")
                    self.assertEqual(read_exactly(served, 8), b"question")
                    served.close()
        listed = {f["id"]: f for f in control.ask("forward.list")["forwards"]}
        shown = listed[added[0]["id"]]
        self.assertEqual((shown["hits"], shown["bytes_to_guest"], shown["bytes_from_guest"]), (3, 24, 0))
        control.ask("forward.delete", ids=[added[0]["id"]])
        with self.assertRaises(ConnectionRefusedError):
            self.lab.remote.connect(V4.host, 7310)

    def test_bytes_are_counted_by_forward(self):
        """While a connection lives, after its end, through the link and past it, both ways."""
        control = self.control
        asked = [{"option": "-t", "spec": "7350"}, {"option": "-t", "spec": "7351"}, {"option": "-u", "spec": "7350"},
                 {"option": "-T", "spec": "7352"}]
        ids = [f["id"] for f in control.ask("forward.add", forwards=asked)["forwards"]]

        def counts():
            listed = {f["id"]: f for f in control.ask("forward.list")["forwards"]}
            return [(listed[n]["hits"], listed[n]["bytes_to_guest"], listed[n]["bytes_from_guest"]) for n in ids]

        self.assertEqual(counts(), [(0, 0, 0)] * 4)
        client, served, _ = self.inbound(self.lab.remote, V4.host, 7350)
        self.assert_connected(client, served)  # "question" and "answer"
        self.assertEqual(counts()[0], (1, 8, 6))
        served.close()
        client.close()
        local, served, _ = self.inbound(self.lab.host, "127.0.0.1", 7350)
        self.assert_connected(local, served)
        wait_until(lambda: counts()[0] == (2, 16, 12), 5, "both connections to be counted")
        with self.guest.bind("0.0.0.0", 7350) as server:
            for where, address in ((self.lab.remote, V4.host), (self.lab.host, "127.0.0.1")):
                with where.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
                    asker.sendto(b"abc", (address, 7350))
                    _, peer = server.recvfrom(10)
                    server.sendto(b"abcde", peer)
                    asker.recv(10)
        self.assertEqual(counts()[2], (2, 6, 10))
        with self.lab.host.listen("127.0.0.1", 7352) as listener:
            near = self.closing(self.guest.connect("127.0.0.1", 7352))
            far, _ = listener.accept()
            self.assert_connected(near, self.closing(far))
        # The guest asks, so that "question" comes from it.
        self.assertEqual(counts()[3], (1, 6, 8))
        self.assertEqual(counts()[1], (0, 0, 0))
        text = self.ctl("forward", "list").stdout
        self.assertRegex(text, r"tcp +7350:7350 +1 +2 +16 B +12 B")
        control.ask("forward.delete", ids=ids)
        more = control.ask("forward.add", forwards=[{"option": "-t", "spec": "7350"}])["forwards"][0]
        self.assertEqual((more["hits"], more["bytes_to_guest"]), (0, 0))
        control.ask("forward.delete", ids=[more["id"]])

    def test_why_a_port_does_not_listen_is_told(self):
        control = self.control
        with self.lab.host.listen("0.0.0.0", 7362), self.lab.host.listen("0.0.0.0", 7363):
            spec = "all,~1-7359,~7365-65535"
            added = control.ask("forward.add", forwards=[{"option": "-t", "spec": spec}])["forwards"][0]
            self.assertEqual((added["open"], added["refused"]), (3, [7362, 7363]))
            self.assertEqual(added["bind_errors"], [{"ports": "7362-7363", "message": "Address already in use"}])
            text = self.ctl("forward", "list").stdout
            self.assertIn(f"{added['id']} does not listen at ports 7362-7363: Address already in use", text)
        control.ask("forward.delete", ids=[added["id"]])

    def test_auto_may_come_later(self):
        control = self.control
        number = control.ask("forward.add", forwards=[{"option": "-t", "spec": "7370-7375,auto"}])["forwards"][0]["id"]
        with self.guest.listen("0.0.0.0", 7372):
            opened = lambda: [f["open"] for f in control.ask("forward.list")["forwards"] if f["id"] == number]
            wait_until(lambda: opened() == [1], 5, "the port to be forwarded")
        control.ask("forward.delete", ids=[number])

    def test_datagrams_are_hits_as_well(self):
        control = self.control
        number = control.ask("forward.add", forwards=[{"option": "-u", "spec": "7320"}])["forwards"][0]["id"]
        with self.guest.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("0.0.0.0", 7320))
            server.settimeout(5)
            for _ in range(2):
                with self.lab.remote.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    client.sendto(b"x", (V4.host, 7320))
                    server.recv(10)
        hits = {f["id"]: f["hits"] for f in control.ask("forward.list")["forwards"]}[number]
        self.assertEqual(hits, 2)
        control.ask("forward.delete", ids=[number])

    def test_all_or_none(self):
        control = self.control
        before = control.ask("forward.list")
        reply = control.reply("forward.add", forwards=[{"option": "-t", "spec": "7330"}, {"option": "-t", "spec": "7301"}])
        self.assertEqual([b["index"] for b in reply["error"]["data"]], [1])
        self.assertIn("7301", reply["error"]["data"][0]["message"])
        reply = control.reply("forward.add", forwards=[{"option": "-t", "spec": "7330"}, {"option": "-u", "spec": "0-x"}])
        self.assertEqual([b["index"] for b in reply["error"]["data"]], [1])
        first = before["forwards"][0]["id"]
        reply = control.reply("forward.delete", ids=[first, 9999])
        self.assertEqual(reply["error"]["data"], [{"index": 1, "message": "nothing is forwarded by the id 9999"}])
        self.assertEqual(control.ask("forward.list"), before)
        with self.assertRaises(ConnectionRefusedError):
            self.lab.remote.connect(V4.host, 7330)

    def test_connections_outlive_their_forward(self):
        control = self.control
        number = control.ask("forward.add", forwards=[{"option": "-t", "spec": "7340"}])["forwards"][0]["id"]
        client, served, _ = self.inbound(self.lab.remote, V4.host, 7340)
        control.ask("forward.delete", ids=[number])
        self.assert_connected(client, served)


class Workers(Controlled):
    more = ("--queues", "2", "--threads", "2")

    def test_flows_of_all_workers_are_shown(self):
        pairs = [self.pair(self.lab.remote, V4.remote) for _ in range(16)]
        for near, far in pairs:
            self.assert_connected(near, far)
        control = self.control
        self.assertEqual(control.ask("info")["workers"], 2)
        ports = {near.getsockname()[1] for near, _ in pairs}
        shown = {int(f["guest"].rsplit(":", 1)[1]) for f in control.ask("flows.list", protocol="tcp")["flows"]}
        self.assertLessEqual(ports, shown)
        self.assertGreaterEqual(control.ask("stats.get")["flows"]["tcp"], 16)


class Machine(Controlled):
    """Under the filter of system calls of those who serve a virtual machine."""

    more = ("-t", "7351:80")

    def another_guest(self, *options):
        return self.lab.vm(*options)

    def test_flows_and_forwards(self):
        near, far = self.pair(self.lab.remote, V4.remote)
        self.assert_connected(near, far)
        control = self.control
        self.assertEqual(control.ask("info")["mode"], "vm")
        flow = control.ask("flows.list", protocol="tcp", port=near.getsockname()[1], host=True)["flows"][0]
        self.assertTrue(flow["host"]["peer"].startswith(V4.remote), flow)
        number = control.ask("forward.add", forwards=[{"option": "-t", "spec": "7352"}])["forwards"][0]["id"]
        self.assert_connected(*self.inbound(self.lab.remote, V4.host, 7352)[:2])
        control.ask("forward.delete", ids=[number])


class Card(Machine):
    def another_guest(self, *options):
        return self.lab.vm(*options, vhost_user=2)


class Commands(Controlled):
    more = ("-t", "7301:80")

    def test_tables_are_for_people(self):
        self.guest.interface()
        self.assertRegex(self.ctl("info").stdout, r"(?m)^mode +\w+$")
        self.assertRegex(self.ctl("stats").stdout, r"(?m)^from the guest +\d+ ")
        lines = self.ctl("forward", "list").stdout.splitlines()
        self.assertEqual(lines[0].split()[:4], ["ID", "FROM", "PROTO", "PORTS"])
        self.assertEqual(lines[1].split()[:4], ["1", "host", "tcp", "7301:80"])
        near, _ = self.pair(self.lab.remote, V4.remote)
        flows = self.ctl("flows", "--protocol", "tcp", "--port", near.getsockname()[1], "--host").stdout
        self.assertIn("established", flows)
        self.assertEqual(flows.count("\n"), 2)

    def test_json_is_for_programs(self):
        self.guest.interface()
        self.assertEqual(json.loads(self.ctl("info", "--json").stdout)["protocol"], 1)
        self.assertIn("flows", json.loads(self.ctl("--json", "flows").stdout))

    def test_metrics_follow_the_format(self):
        self.guest.interface()
        text = self.ctl("metrics").stdout
        self.assertTrue(text.endswith("# EOF\n"))
        families = re.findall(r"(?m)^# TYPE (\S+) (\S+)$", text)
        self.assertEqual(len(families), len(set(families)))
        names = dict(families)
        for line in text.splitlines():
            if line.startswith("#"):
                continue
            name = re.match(r"[a-z_]+", line).group()
            base = re.sub("_(total|info)$", "", name)
            self.assertIn(base, names, line)
            self.assertEqual(name.endswith("_total"), names[base] == "counter", line)

    def test_watch_goes_on(self):
        self.guest.interface()
        argv = self.lab.as_user([self.lab.program.path, "ctl", "-i", self.path, "flows", "--watch", "0.2"])
        process = self.lab.popen(argv, stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.lab.end, process)
        text = ""
        while text.count("flows,") < 3:
            text += process.stdout.readline()
        self.assertIn("PROTO", text)

    def test_wrong_command_lines_end_with_2(self):
        self.guest.interface()
        for arguments in (("flow",), ("forward", "add"), ("forward", "del"), ("log", "loud"), ("flows", "--watch", "0")):
            self.assertEqual(self.ctl(*arguments, check=False).returncode, 2, arguments)

    def test_refusals_end_with_1(self):
        self.guest.interface()
        done = self.ctl("forward", "add", "-t", "7301", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("Failed to bind port 7301", done.stderr)


class Instances(Case):
    """Sockets by default: where `list` finds them."""

    def start(self, *options):
        directory = tempfile.mkdtemp(dir=self.lab.dir)
        os.chown(directory, 65534, 65534)
        environment = [f"XDG_RUNTIME_DIR={directory}"]
        argv = ["env", *environment, self.lab.program.path, "run", *options, "--", "sleep", "20"]
        process = self.lab.popen(self.lab.as_user(argv), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.addCleanup(self.lab.end, process)
        return process, environment

    def call(self, environment, *arguments, check=True):
        return self.lab.call(self.lab.as_user(["env", *environment, self.lab.program.path, *arguments]), check=check)

    def listed(self, environment):
        return json.loads(self.call(environment, "list", "--json").stdout)

    def test_without_a_directory_for_sockets_it_says_so(self):
        done = self.call(["--unset=XDG_RUNTIME_DIR"], "list")
        self.assertIn("PID", done.stdout)
        self.assertIn("XDG_RUNTIME_DIR is not set", done.stderr)

    def test_instance_is_listed_found_and_ended(self):
        process, environment = self.start()
        wait_until(lambda: self.listed(environment), 5, "the instance")
        instance = self.listed(environment)[0]
        self.assertEqual((instance["info"]["mode"], instance["info"]["target"]), ("run", "sleep 20"))
        self.assertIn("run", self.call(environment, "list").stdout)
        # The only one need not be named; by its number it can be.
        self.call(environment, "ctl", "info")
        self.call(environment, "ctl", "-i", str(instance["info"]["pid"]), "stats")
        self.call(environment, "ctl", "quit")
        self.assertEqual(process.wait(5), 143)
        # What it could not take with it is gone after the next look.
        self.assertEqual(self.listed(environment), [])
        self.assertFalse(os.path.exists(instance["socket"]))
        done = self.call(environment, "ctl", "info", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("no instance is running", done.stderr)

    def test_what_others_left_behind_goes_with_the_next_start(self):
        process, environment = self.start()
        wait_until(lambda: self.listed(environment), 5, "the instance")
        old = self.listed(environment)[0]["socket"]
        self.call(environment, "ctl", "quit")
        process.wait(5)
        self.assertTrue(os.path.exists(old))
        argv = ["env", *environment, self.lab.program.path, "run", "--", "true"]
        self.lab.call(self.lab.as_user(argv))
        self.assertFalse(os.path.exists(old))

    def test_no_socket_if_none_is_wanted(self):
        _, environment = self.start("--control", "none")
        time.sleep(0.5)
        self.assertEqual(self.listed(environment), [])
        directory = environment[0].split("=")[1]
        self.assertEqual(os.listdir(directory), [])

    def test_path_that_cannot_be_had_is_an_error(self):
        done = self.run_command("true", options=("--control", "/nonexistent/control"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot listen at the control socket '/nonexistent/control' (option '--control')", done.stderr)


class Cost(Controlled):
    @limit(60)
    def test_looking_on_does_not_hold_up_traffic(self):
        """A thousand flows looked at twenty times a second beside a round trip."""
        pairs = [self.pair(self.lab.remote, V4.remote) for _ in range(200)]
        near, far = pairs[0]
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        argv = self.lab.as_user([self.lab.program.path, "ctl", "-i", self.path, "flows", "--watch", "0.1", "--json"])
        watcher = self.lab.popen(argv, stdout=subprocess.DEVNULL)
        self.addCleanup(self.lab.end, watcher)
        slowest = 0
        for _ in range(300):
            began = time.monotonic()
            self.assert_connected(near, far)
            slowest = max(slowest, time.monotonic() - began)
        self.assertIsNone(watcher.poll())
        self.assertLess(slowest, 0.5)
