"""The offline gate can fail: a planted attempt is refused, recorded and turned into a failed test. Loopback stays open."""
import socket
import subprocess
import sys
import threading

ATTEMPT = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"


def test_a_planted_connection_is_refused_and_recorded(offline):
    done = subprocess.run([sys.executable, "-c", ATTEMPT], capture_output=True, text=True)
    assert done.returncode != 0 and "offline gate" in done.stderr
    assert "192.0.2.1" in offline.read_text()
    offline.unlink()  # the attempt was ours


def test_a_name_lookup_is_refused_too(offline):
    done = subprocess.run([sys.executable, "-c", "import socket; socket.getaddrinfo('example.org', 80)"], capture_output=True, text=True)
    assert done.returncode != 0 and "example.org" in offline.read_text()
    offline.unlink()


def test_loopback_stays_open():
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].close(), daemon=True).start()
        code = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), timeout=5).close()"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
