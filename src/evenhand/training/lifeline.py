"""A connection from every rank to rank 0 that nothing is ever said on: when it breaks, a rank has died.

A collective over NCCL that waits for a dead rank does not return, and no signal handler runs while it waits; a thread
that sleeps on a socket sees the death at once, and ends this process when the main thread has not done so by itself.
"""

import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from evenhand.errors import LostRankError

# Time for the main thread to notice by itself and say its sentence.
GRACE_SECONDS = 4.0
_FAREWELL = b"."


@dataclass(slots=True)
class Lifeline:
    """This rank's ends of the connections."""

    rank: int
    peers: list[socket.socket] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def tied(cls, rank: int, size: int, from_first: Callable[[Any], Any]) -> "Lifeline":
        """Connect all ranks to rank 0; `from_first` gives every rank what rank 0 says."""
        line = cls(rank)
        if rank == 0:
            with socket.create_server(("", 0), backlog=size) as server:
                from_first(server.getsockname()[1])
                line.peers = [server.accept()[0] for _ in range(size - 1)]
        else:
            port = from_first(None)
            line.peers = [socket.create_connection((os.environ["MASTER_ADDR"], port), timeout=60)]
            line.peers[0].settimeout(None)
        for peer in line.peers:
            threading.Thread(target=line._watch, args=(peer,), daemon=True).start()
        return line

    def untie(self) -> None:
        """End in peace: what the others see is a farewell, not a death."""
        self._ended.set()
        for peer in self.peers:
            with suppress(OSError):  # it said farewell first and is gone
                peer.sendall(_FAREWELL)
                peer.shutdown(socket.SHUT_WR)

    def _watch(self, peer: socket.socket) -> None:
        try:
            said = peer.recv(1)
        except OSError:
            said = b""
        if said == _FAREWELL or self._ended.wait(GRACE_SECONDS):
            return
        sys.stderr.write(f"error: rank {self.rank} lost another one and ends too.\n")
        sys.stderr.flush()
        os._exit(LostRankError.exit_code)
