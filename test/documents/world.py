"""Where the commands are run: a home directory of an ordinary user in the laboratory's `host`, with the program in the PATH
and a clone's directories in it; and a web server that stands for example.org."""

import contextlib
import http.server
import os
import shutil
import ssl
import subprocess
import threading

import lab

BODY = b"the page of example.org\n"


class World:
    def __init__(self):
        self.lab = lab.Lab()
        self.home = os.path.join(self.lab.dir, "home")
        self.open = contextlib.ExitStack()
        self.environment = {}

    def __enter__(self):
        for name in ("bin", "run", "target/release"):
            os.makedirs(os.path.join(self.home, name))
        for name in ("bin/spelt", "target/release/spelt"):
            shutil.copy(self.lab.program.path, os.path.join(self.home, name))
        self.environment = {
            "HOME": self.home, "SHELL": "/bin/sh", "PATH": f"{self.home}/bin:{os.environ['PATH']}",
            "XDG_RUNTIME_DIR": f"{self.home}/run", "CURL_CA_BUNDLE": f"{self.home}/certificate"}
        self._serve_example_org()
        self.lab.call(["chown", "-R", str(lab.USER), self.home])
        os.chmod(f"{self.home}/run", 0o700)
        return self

    def __exit__(self, *_):
        self.open.close()
        self.lab.close()

    def _serve_example_org(self):
        """A name server, and a web server with a certificate that curl takes here."""
        key, certificate = os.path.join(self.lab.dir, "key"), f"{self.home}/certificate"
        self.lab.call(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                       "-days", "2", "-subj", "/CN=example.org", "-addext", "subjectAltName=DNS:example.org",
                       "-keyout", key, "-out", certificate])
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
        self.open.enter_context(lab.Dns(self.lab.remote, lab.REMOTE4, answer4=lab.REMOTE4, answer6=lab.REMOTE6))
        for address in (lab.REMOTE4, lab.REMOTE6):
            self.serve(self.lab.remote, address, 443, tls)

    def serve(self, where, address, port, tls=None):
        """A web server until the end of the world."""
        listener = where.listen(address, port)
        listener.settimeout(None)
        server = http.server.ThreadingHTTPServer((address, port), Page, bind_and_activate=False)
        server.socket.close()
        server.socket = tls.wrap_socket(listener, server_side=True) if tls else listener
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        self.open.callback(server.server_close)
        self.open.callback(server.shutdown)

    # Commands

    def argv(self, command):
        """For a shell of the user's, in the clone."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return self.lab.as_user(["env", *variables, "bash", "-c", f"cd {self.home} && {command}"])

    def call(self, command, status=0, **more):
        """To its end, which has this status. Returns standard output and standard error.

        They are files: what goes on in the background must not be able to hold us up."""
        more.setdefault("stdin", subprocess.DEVNULL)
        if "input" in more:
            del more["stdin"]
        with open(self.lab.file("out"), "w+b") as out, open(self.lab.file("err"), "w+b") as err:
            done = subprocess.run(self.argv(command), stdout=out, stderr=err, timeout=20, check=False, **more)
            out.seek(0)
            err.seek(0)
            texts = out.read().decode(errors="replace"), err.read().decode(errors="replace")
        assert done.returncode == status, f"status {done.returncode}, not {status}: {texts}"
        return texts

    @contextlib.contextmanager
    def running(self, command):
        """Runs until we have seen enough; yields the process."""
        log = self.lab.file("log")
        with open(log, "wb") as out:
            process = self.lab.popen(self.argv("exec " + command), stdin=subprocess.PIPE, stdout=out, stderr=out)
        try:
            yield process
        finally:
            self.lab.end(process)

    def page(self, where, address, port):
        """What a web server answers, once it does."""
        def asked():
            with contextlib.suppress(OSError):
                with where.connect(address, port, timeout=2) as stream:
                    stream.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    return stream.makefile("rb").read()
        return lab.wait_until(asked, 10, f"an answer of {address} port {port}")

    @contextlib.contextmanager
    def instance(self, command="spelt run -t 8080:80 -- cat"):
        """The one that is running, to which `spelt ctl` goes."""
        with self.running(command) as process:
            lab.wait_until(lambda: self.modes() == ["run"], 5, "the instance")
            yield process

    def modes(self):
        """Of the instances that are running."""
        return [line.split()[1] for line in self.call("spelt list")[0].splitlines()[1:]]


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_):
        pass
