"""ZeroMQ sockets with the options that a control loop needs."""

import zmq

from policy_server import wire
from policy_server.endpoint import ServerError

POLL_MS = 100  # how long a server waits before it looks whether it shall end
_QUEUE = 64  # messages in each direction and connection: a peer that floods, or does not read, costs no more memory


def router(endpoint: str) -> zmq.Socket:
    """Returns a ROUTER bound to `endpoint`, whose recv waits POLL_MS. Raises ServerError where that fails."""
    socket = zmq.Context.instance().socket(zmq.ROUTER)
    socket.linger = 0
    socket.rcvtimeo = POLL_MS
    socket.rcvhwm = socket.sndhwm = _QUEUE
    socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_FRAME_BYTES)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # an undeliverable reply is an error to count, not lost in silence
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a client that reconnects before its old connection is seen dead
    socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3000)
    socket.setsockopt(zmq.IPV6, "[" in endpoint)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        hint = "; stop the other process or choose another --bind" if error.errno == zmq.EADDRINUSE else ""
        raise ServerError(f"cannot listen on {endpoint}: {zmq.strerror(error.errno or 0)}{hint}") from error
    return socket
