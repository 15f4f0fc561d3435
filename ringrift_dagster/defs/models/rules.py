"""What the hosts file requires of a candidate, for the assets of models."""

import dagster as dg

from ringrift_dagster.cluster.hosts import HostsFileError
from ringrift_dagster.defs.resources import PlaneResource
from ringrift_dagster.games.config import parse_config
from ringrift_dagster.models.promotion.decision import PromotionRules, rules_of


def rules_for(plane: PlaneResource, config: str) -> PromotionRules:
    """The rules for a config. Raises dagster.Failure if the hosts file is broken."""
    try:
        cluster = plane.cluster()
    except HostsFileError as error:
        raise dg.Failure(f"the hosts file cannot be used: {error.problems[0]}", allow_retries=False) from error
    return rules_of(cluster.promotion, cluster.freshness, parse_config(config).players)
