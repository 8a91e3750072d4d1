"""Loaded by every Python started under test (through PYTHONPATH): refuses and records any connection that would leave the machine.

Loopback stays open, since a notebook's kernel speaks to its client there. With ATOMSNB_WATCH=1 the library's annotations are under watch too (see
tests/annotations.py), from the first import of it; a process that never imports it pays nothing.
"""
import os
import socket
import sys

_LOG = os.environ.get("ATOMSNB_NET_LOG")
_NEAR = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "", None, socket.gethostname()}


def _refuse(event: str, args: tuple) -> None:
    if event == "socket.connect":
        address = args[1]
        host = address[0] if isinstance(address, tuple) and address else None  # a path is a Unix socket: local by nature
        far = isinstance(address, tuple) and host not in _NEAR and not str(host).startswith("127.")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0].decode() if isinstance(args[0], bytes) else args[0]
        far = host not in _NEAR and not str(host).startswith("127.")
    else:
        return
    if far:
        with open(_LOG, "a", encoding="utf-8") as log:
            log.write(f"{event} {host} from {' '.join(sys.argv)[:200]}\n")
        raise PermissionError(f"offline gate: {event} to {host} refused")


if _LOG:
    sys.addaudithook(_refuse)


class _Watch:
    """Waits for the first import of the library, and puts the watch there instead of itself."""

    def find_spec(self, name, path=None, target=None):
        if name == "atomsnb":
            sys.meta_path.remove(self)
            sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
            try:
                import annotations
            finally:
                sys.path.pop()
            annotations.install()


if os.environ.get("ATOMSNB_WATCH") == "1":
    sys.meta_path.insert(0, _Watch())
