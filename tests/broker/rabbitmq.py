"""A private RabbitMQ node with its MQTT plugin: one process, its own epmd, one directory, everything on loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.broker.planes import free_port

# The package's own script: the one in /usr/sbin changes to the user rabbitmq and to the system's directories.
PROGRAM = shutil.which("rabbitmq-server", path="/usr/lib/rabbitmq/bin")

SETTINGS = """\
listeners.tcp = none
mqtt.listeners.tcp.1 = 127.0.0.1:{port}
mqtt.listeners.ssl = none
mqtt.allow_anonymous = true
"""


class RabbitMQ:
    """As a context manager it runs until the end of the block; it can be killed and started again on the same port."""

    def __enter__(self) -> RabbitMQ:
        assert PROGRAM is not None, "rabbitmq-server is not installed"
        self._directory = TemporaryDirectory(prefix="rabbitmq")
        self.port, self._epmd_port = free_port(), free_port()
        root = Path(self._directory.name)
        (root / "rabbitmq.conf").write_text(SETTINGS.format(port=self.port))
        (root / "plugins").write_text("[rabbitmq_mqtt].\n")
        self._environment = _environment(root, self._epmd_port)
        self._epmd = _spawn(["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"], self._environment)
        try:
            self._wait_for_epmd()
            self.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._end()

    def start(self) -> None:
        """Start the node and wait until it says that it is ready, as a service of systemd does."""
        notices = Path(self._environment["NOTIFY_SOCKET"])
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(str(notices))
            sock.settimeout(1.0)
            self._node = _spawn([str(PROGRAM)], self._environment)
            try:
                while b"READY=1" not in self._notice(sock):
                    pass
            except BaseException:
                self.kill()
                raise
            finally:
                notices.unlink()

    def kill(self) -> None:
        self._node.kill()
        self._node.wait()

    def _notice(self, sock: socket.socket) -> bytes:
        if self._node.poll() is not None:
            raise RuntimeError(f"RabbitMQ ended with status {self._node.returncode}")
        try:
            return sock.recv(4096)
        except TimeoutError:
            return b""

    def _wait_for_epmd(self) -> None:
        """A node that finds none would start another, as a daemon."""
        while self._epmd.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self._epmd_port), timeout=1).close()
            except OSError:
                continue
            return
        raise RuntimeError(f"epmd ended with status {self._epmd.returncode}")

    def _end(self) -> None:
        self._epmd.kill()
        self._epmd.wait()
        self._directory.cleanup()


def _environment(root: Path, epmd_port: int) -> dict[str, str]:
    """Nothing of the system's configuration, and every port of Erlang's distribution on loopback."""
    return {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "HOME": str(root),
        "NOTIFY_SOCKET": str(root / "notices"),
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_CONF_ENV_FILE": os.devnull,
        "RABBITMQ_NODENAME": "tests@localhost",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_CONFIG_FILE": str(root / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(root / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(root / "mnesia"),
        "RABBITMQ_LOG_BASE": str(root / "logs"),
    }


def _spawn(command: list[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=environment, stdin=quiet, stdout=quiet, stderr=quiet)
