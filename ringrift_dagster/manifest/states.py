"""The states that rows of the manifest can be in."""

from __future__ import annotations

from enum import StrEnum


class ReplicaState(StrEnum):
    """Of one copy. Whether it can be reached now is its location's liveness, not the replica's state."""

    AVAILABLE = "AVAILABLE"
    COPYING = "COPYING"
    """A transfer is writing it; not a source yet."""
    SUSPICIOUS = "SUSPICIOUS"
    """Somebody contradicts it; not used until it was verified again."""
    BAD = "BAD"
    """Its bytes are not what its hash says."""
    LOST = "LOST"
    """It was there and is not any more, or another content stands in its place."""
    UNAVAILABLE = "UNAVAILABLE"
    """Archived; or missing, while so much is missing with it that a person has to say whether it is lost."""


class Liveness(StrEnum):
    """Of a location."""

    ONLINE = "ONLINE"
    OFFLINE = "OFFLINE"
    """It does not answer."""
    UNAVAILABLE = "UNAVAILABLE"
    """Its host answers and it is not there: a drive that is not mounted."""
    UNKNOWN = "UNKNOWN"
    """Not asked yet."""


CONTRADICTED = "its size contradicts what other copies say"
"""Reason of a SUSPICIOUS replica that was told with another size than its item has."""
HELD = "held"
"""Reason of a replica that a brake keeps UNAVAILABLE."""
ARCHIVED = "archived"
"""Reason of a replica that is UNAVAILABLE until it is restored from its archive."""
