"""The vectoriser: one graph for all tasks of a structure, as a vmap over initializers."""

from exporter.compile.vmap.join_groups import JoinGroupsPass
from exporter.compile.vmap.merge_routes import MergeRoutesPass
from exporter.compile.vmap.route_tasks import RouteTasksPass
from exporter.compile.vmap.vectorize_tasks import VectorizeTasksPass

__all__ = ["JoinGroupsPass", "MergeRoutesPass", "RouteTasksPass", "VectorizeTasksPass"]
