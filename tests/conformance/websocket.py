"""A WebSocket client of a few lines (RFC 6455), which sends the frames that a test asks for."""

from __future__ import annotations

import base64
import os
import socket
import struct

BINARY, TEXT, CLOSE = 2, 1, 8


class WebSocket:
    """A carrier for a Client; `answer` is the head of the server's HTTP response."""

    def __init__(self, connection: socket.socket, host: str) -> None:
        self._socket = connection
        self._bytes = bytearray()
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET /mqtt HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: other, mqtt\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self._bytes:
            data = self._socket.recv(1 << 16)
            assert data, "the broker closed the connection within its HTTP response"
            self._bytes += data
        head, _, rest = bytes(self._bytes).partition(b"\r\n\r\n")
        self.answer = head.decode()
        self._bytes = bytearray(rest)

    def sendall(self, data: bytes, /) -> None:
        """One binary frame."""
        self.send(BINARY, data)

    def send(self, opcode: int, data: bytes) -> None:
        """One frame, masked as a client has to."""
        size = bytes((0x80 | len(data),)) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
        self._socket.sendall(bytes((0x80 | opcode,)) + size + b"\0\0\0\0" + data)

    def recv(self, size: int, /) -> bytes:
        """The payload of the next frame; empty where the broker closes."""
        opcode, length = self._take(2)
        length &= 127
        if length == 126:
            (length,) = struct.unpack(">H", self._take(2))
        payload = self._take(length)
        if opcode & 15 == CLOSE:
            return b""
        assert opcode == 0x80 | BINARY, f"a frame of the broker begins with 0x{opcode:02X}"
        return payload

    def settimeout(self, seconds: float, /) -> None:
        self._socket.settimeout(seconds)

    def close(self) -> None:
        self._socket.close()

    def _take(self, size: int) -> bytes:
        while len(self._bytes) < size:
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionResetError
            self._bytes += data
        taken = bytes(self._bytes[:size])
        del self._bytes[:size]
        return taken
