"""Taking a TCP port so that nobody else has it, and handing it from one server to the next without a gap.

A port is claimed alone and marked as shareable only afterwards. So a second claim is refused as usual, while a successor that
asks to share (SO_REUSEPORT, the same user) joins it and can go on alone when the first one leaves.
"""

import ctypes
import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kfp_foundry.components.common.errors import PlatformError, UserError

LOOPBACK = "127.0.0.1"
BACKLOG = 2048

_SO_ATTACH_REUSEPORT_CBPF = 51
_BPF_RETURN = 0x06


def claim(host: str, port: int) -> socket.socket:
    """A listening socket on a port that nobody else has.

    Args:
        host: Address to listen on.
        port: The port; 0 takes any free one.

    Raises:
        UserError: The port is not between 0 and 65535, or the host is no address of this machine.
        PlatformError: The port is in use or may not be taken; the message names the port and, where it can be seen, who has it.
    """
    listener = _bind(host, port, share=False)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.listen(BACKLOG)
    return listener


def join(host: str, port: int) -> socket.socket:
    """A listening socket on a port that another server of this user has claimed; from now on new connections go to this one.

    The other one still answers what has come to it, and may then leave without losing a request.

    Raises:
        PlatformError: The port cannot be shared.
    """
    listener = _bind(host, port, share=True)
    listener.listen(BACKLOG)
    _prefer(listener)
    return listener


def _prefer(listener: socket.socket) -> None:
    """Sends new connections to the second listener of the port (socket(7), SO_ATTACH_REUSEPORT_CBPF), not to either by chance.

    The program is `return 1`. Once the first listener has left there is no second one, and Linux falls back to what is there.
    """
    program = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RETURN, 0, 0, 1))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, struct.pack("HP", 1, ctypes.addressof(program)))


def first_free(ports: range, host: str = LOOPBACK) -> socket.socket:
    """The first of these ports that is free, claimed; any free port when none of them is."""
    for port in ports:
        try:
            return claim(host, port)
        except PlatformError:
            continue
    return claim(host, 0)


def _bind(host: str, port: int, share: bool) -> socket.socket:
    if not 0 <= port <= 65535:
        raise UserError(f"port is {port}", where="port", remedy="give a number between 1 and 65535, or 0 for any free one")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise UserError(f"host is {host!r}: {error.strerror}", where="host", remedy="give an address of this machine, such as 127.0.0.1") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _refused(host, port, error) from error
    return listener


def _refused(host: str, port: int, error: OSError) -> PlatformError | UserError:
    where = f"port {port}"
    if error.errno == errno.EADDRINUSE:
        return PlatformError(
            f"the port is in use on {host}{holder(port)}", where=where, remedy="stop that process or choose another port (0: any free one)"
        )
    if error.errno == errno.EACCES:
        return PlatformError("the port may not be taken by this user", where=where, remedy="choose a port above 1023")
    return UserError(
        f"host {host!r} cannot be listened on: {error.strerror}", where=where, remedy="give an address of this machine, such as 127.0.0.1"
    )


def holder(port: int) -> str:
    """Who listens on a port, as ` by process 4711 (python -m ...)`; empty where this user may not see it."""
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for folder in Path("/proc").glob("[0-9]*"):
        if inodes.isdisjoint(_open_files(folder)):
            continue
        with suppress(OSError):
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            return f" by process {folder.name} ({command[:120]})"
    return ""


def _open_files(process: Path) -> Iterator[str]:
    try:
        links = list((process / "fd").iterdir())
    except OSError:
        return  # another user's process, or one that has just ended
    for link in links:
        with suppress(OSError):  # closed since
            yield str(link.readlink())


def _listening_inodes(port: int) -> list[str]:
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if words[3] == "0A" and int(words[1].rsplit(":", 1)[1], 16) == port:
                found.append(words[9])
    return found
