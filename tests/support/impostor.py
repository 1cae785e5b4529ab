"""A fake server: a ROUTER that answers what a test wants."""

import threading

import zmq

from policy_server.contract import wire


class Impostor:
    """Answers messages in a thread.

    Attributes:
        seen: (routing id, frame) of all messages so far.

    Args:
        reply: Takes a request's header and returns a list of answers: a frame, or a list of frames.
        options: Options of the socket, like curve_server.
    """

    def __init__(self, reply, **options):
        self.socket = zmq.Context.instance().socket(zmq.ROUTER)
        self.socket.linger = 0
        for name, value in options.items():
            setattr(self.socket, name, value)
        self.endpoint = f"tcp://127.0.0.1:{self.socket.bind_to_random_port('tcp://127.0.0.1')}"
        self.reply = reply
        self.seen = []
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.loop, daemon=True)

    def loop(self):
        while not self.done.is_set():
            if self.socket.poll(20):
                identity, frame = self.socket.recv_multipart()
                self.seen.append((identity, frame))
                for answer in self.reply(wire.decode(frame)[0]):
                    self.socket.send_multipart(
                        [identity, *([answer] if isinstance(answer, bytes) else answer)]
                    )

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join(10)
        self.socket.close()
