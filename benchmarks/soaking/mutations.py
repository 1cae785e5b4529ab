"""Makes messages that no correct client sends."""

from __future__ import annotations

import random

import numpy as np

from policy_server.contract import wire
from policy_server.contract.wire import Header, Kind
from policy_server.transport import zmtp

NASTY = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)
MAX_GROWTH = 2048
HTTP = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def valid_frames(obs_dim: int) -> list[bytes]:
    """Returns good messages of every kind that a client sends, except the costly `reload`."""
    rng = np.random.default_rng(0)
    acts = [wire.float_bytes(rng.standard_normal(obs_dim)) for _ in range(3)]
    acts.append(wire.float_bytes(np.full(obs_dim, np.nan)))
    requests = [{"op": op} for op in ("hello", "health", "stats", "rollback")]
    requests += [{"op": "reset", "seed": seed} for seed in (7, None)]
    frames = [
        wire.encode(Header(Kind.ACT, 0, i + 1, 10**9 * i, 8000 * i), payload)
        for i, payload in enumerate(acts)
    ]
    frames += [
        wire.encode(Header(Kind.CONTROL, 0, i + 9, 10**9 * i), wire.json_bytes(request))
        for i, request in enumerate(requests)
    ]
    return frames


def mutated(rng: random.Random, frames: list[bytes]) -> bytes:
    """Returns one of the frames, changed in one to three ways."""
    data = bytearray(rng.choice(frames))
    for _ in range(rng.randint(1, 3)):
        data = rng.choice(_WAYS)(rng, data, frames)
    return bytes(data)


def _flip(rng: random.Random, data: bytearray, _frames: list[bytes]) -> bytearray:
    for _ in range(rng.randint(1, 8) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _overwrite(rng: random.Random, data: bytearray, _frames: list[bytes]) -> bytearray:
    at = rng.randrange(len(data) + 1)
    data[at : at + rng.choice((1, 2, 4, 8))] = bytes([rng.choice(NASTY)]) * rng.choice((1, 2, 4, 8))
    return data


def _truncate(rng: random.Random, data: bytearray, _frames: list[bytes]) -> bytearray:
    return data[: rng.randrange(len(data) + 1)]


def _grow(rng: random.Random, data: bytearray, _frames: list[bytes]) -> bytearray:
    return data + rng.randbytes(rng.randint(1, rng.choice((8, MAX_GROWTH))))


def _splice(rng: random.Random, data: bytearray, frames: list[bytes]) -> bytearray:
    other = rng.choice(frames)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]


def _cut_out(rng: random.Random, data: bytearray, _frames: list[bytes]) -> bytearray:
    at = rng.randrange(len(data) + 1)
    del data[at : at + rng.randint(1, 16)]
    return data


def _random(rng: random.Random, data: bytearray, _frames: list[bytes]) -> bytearray:
    return bytearray(rng.randbytes(len(data)))


def _payload(rng: random.Random, data: bytearray, _frames: list[bytes]) -> bytearray:
    """Changes the payload only, so that the server looks into one of the right length."""
    for _ in range(rng.randint(1, 4) if len(data) > wire.HEADER_BYTES else 0):
        data[rng.randrange(wire.HEADER_BYTES, len(data))] = rng.choice((*NASTY, *b'"{}[]:,\\0'))
    return data


_WAYS = (_flip, _flip, _overwrite, _truncate, _grow, _splice, _cut_out, _random, _payload, _payload)


def bad_stream(rng: random.Random, frames: list[bytes]) -> bytes:
    """Returns all bytes of a connection that breaks ZeroMQ's own protocol or its order."""
    greeting = zmtp.greeting()
    ready = zmtp.ready(b"DEALER", b"h" + rng.randbytes(16))
    message = zmtp.frame(mutated(rng, frames))
    kind = rng.randrange(7)
    if kind == 0:
        noise = rng.randbytes(rng.randint(1, 200))
        return rng.choice((b"", HTTP, noise, greeting[: rng.randrange(64)]))
    if kind == 1:
        length = (2 ** rng.randrange(20, 64)).to_bytes(8, "big")
        return greeting + ready + bytes([zmtp.LONG]) + length + message
    if kind == 2:
        return greeting + ready + zmtp.frame(b"x", zmtp.MORE) * rng.randint(2, 40)
    if kind == 3:
        command = zmtp.command(rng.choice((b"PING", b"ERROR", b"READY")), rng.randbytes(9))
        return greeting + ready + command + message
    if kind == 4:
        name = rng.choice((b"SUB", b"ROUTER", b""))
        return greeting + zmtp.ready(name, rng.randbytes(rng.randrange(300))) + message
    parts = [greeting, ready, message]
    which = rng.randrange(3)
    parts[which] = mutated(rng, [parts[which]])
    return b"".join(parts)
