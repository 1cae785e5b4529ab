"""Which policies answer a client, and whether they are the ones that it was made for."""

from typing import Any

from policy_server.contract import wire
from policy_server.contract.errors import MemoryLost, PolicyChanged, PolicyError
from policy_server.contract.manifest import Manifest, differences
from policy_server.contract.wire import Header, Status


class KnownPolicies:
    """The policies at one endpoint that have said hello, all of one interface.

    Attributes:
        manifest: The manifest of the one that said hello last. None before the first.

    Args:
        endpoint: Names the server in messages.
    """

    def __init__(self, endpoint: str):
        self.manifest: Manifest | None = None
        self._endpoint = endpoint
        self._ids: set[bytes] = set()

    def __contains__(self, policy: bytes) -> bool:
        """Returns whether an answer of this policy can be used. Servers may leave the id out."""
        return policy in self._ids or policy == wire.NO_POLICY

    def learn(self, hello: dict[str, Any]) -> None:
        """Notes an answer to hello, whatever interface it tells.

        Raises:
            BundleError: The manifest has another schema.
            PolicyError: The answer names no policy.
        """
        self.manifest = Manifest.from_dict(hello.get("manifest"))
        self._ids = {_policy_id(hello)}

    def admit(self, hello: dict[str, Any]) -> None:
        """Notes an answer to hello that tells the interface of the policies before.

        Raises:
            PolicyChanged: The interface differs.
            BundleError, PolicyError: See `learn`.
        """
        new = Manifest.from_dict(hello.get("manifest"))
        old = self.manifest
        if old is not None and (found := differences(new, old)):
            raise PolicyChanged(
                Status.REFUSED,
                f"{self._endpoint} now has the policy {new.name!r}, which differs from "
                f"{old.name!r}: {'; '.join(found)}. Make another client for it",
            )
        self.manifest = new
        self._ids.add(_policy_id(hello))


def _policy_id(hello: dict[str, Any]) -> bytes:
    """Returns the id that the wire's header has for the policy of an answer to hello."""
    try:
        return bytes.fromhex(hello["bundle_hash"])[:8]
    except (KeyError, TypeError, ValueError) as error:
        message = f"the answer to hello has no bundle_hash: {hello.get('bundle_hash')!r}"
        raise PolicyError(Status.MALFORMED, message) from error


class EpisodeMemory:
    """Watches whether a policy with memory still remembers the client's episode.

    Args:
        endpoint: Names the server in messages.
    """

    def __init__(self, endpoint: str):
        self._endpoint = endpoint
        self._n_seen: int | None = None  # Observations in the memory; None: a new episode.
        self._begun_at = 0  # Answers to later requests belong to the episode.
        self._lost = ""

    def begin(self, sequence: int) -> None:
        """Expects an empty memory from the first request after `sequence` on."""
        self._begun_at = sequence
        self._n_seen = None
        self._lost = ""

    def note(self, header: Header) -> None:
        """Notes an answer's count. Every answer of the episode counts, also one that is dropped."""
        if header.sequence <= self._begun_at:
            return
        before = self._n_seen
        now = header.n_seen
        if before is not None and now <= before:
            self._lost = (
                f"the policy at {self._endpoint} forgot the episode: its memory held {before} "
                f"observations, and then {now}; the server was started again, loaded another "
                "policy, dropped the session or was told hello. Begin another episode with reset"
            )
        self._n_seen = now

    def check(self) -> None:
        """Raises MemoryLost where the policy forgot the episode."""
        if self._lost:
            raise MemoryLost(Status.INTERNAL, self._lost)
