"""Moves messages between client and server: ZMTP on plain sockets, CURVE through libzmq."""
