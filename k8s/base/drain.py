"""Moves the replicas of this Ray node elsewhere before its pod ends; run by the pod's preStop hook.

Kubernetes tells a pod to go (a node is drained, a spot machine is taken back) without asking Ray. Told by Ray
that the node is about to end, Serve starts a replacement for each replica here on another node, sends new
requests there, and lets each old replica bring its requests to an end.
"""

import argparse
import os
import socket
import sys
import time

from ray import NodeID
from ray._raylet import GcsClient
from ray.core.generated import autoscaler_pb2
from ray.exceptions import RayError
from ray.util.state import list_actors
from ray.util.state.exception import RayStateApiException

_POLL_SECONDS = 2.0
_ASK_SECONDS = 20.0


def node_at(address: str, ip: str) -> str:
    """The id of the node that lives at an IP address of a cluster; ``address`` is ``host:port`` of its GCS.

    Raises:
        LookupError: there is none.
        RayError: the cluster does not answer.
    """
    nodes = GcsClient(address=address).get_all_node_info(timeout=_ASK_SECONDS)
    for node_id, node in nodes.items():
        if node.node_manager_address == ip and node.state == node.ALIVE:
            return str(node_id.hex())
    raise LookupError(f"The cluster knows no node at {ip}.")


def drain(address: str, node_id: str, seconds: float) -> str:
    """Have Ray empty a node, and wait until no replica runs on it, for at most so long.

    Returns:
        A sentence about how it ended.

    Raises:
        RayError: the cluster does not answer.
        RayStateApiException: it does not tell what runs on the node.
    """
    deadline = time.time() + seconds
    accepted, refusal = GcsClient(address=address).drain_node(
        NodeID.from_hex(node_id).hex(),
        autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "Kubernetes ends this pod.",
        int(deadline * 1000),
    )
    if not accepted:
        return f"Ray does not drain this node: {refusal}"
    while left := _replicas(address, node_id):
        if time.time() > deadline:
            return f"After {seconds:g} s, {left} replicas are still on this node."
        time.sleep(_POLL_SECONDS)
    return "No replica is on this node any more."


def _replicas(address: str, node_id: str) -> int:
    here = [("node_id", "=", node_id), ("state", "=", "ALIVE")]
    actors = list_actors(address=address, filters=here, limit=10_000)
    return sum(actor.class_name.startswith("ServeReplica") for actor in actors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long it may take")
    parser.add_argument("--address", default=os.environ.get("RAY_ADDRESS"), help="of the cluster's GCS")
    parser.add_argument("--ip", default=socket.gethostbyname(socket.gethostname()), help="of the node")
    given = parser.parse_args()
    if given.address is None:
        parser.error("Which cluster? Give --address, or set RAY_ADDRESS.")
    try:
        said = drain(given.address, node_at(given.address, given.ip), given.seconds)
    except (LookupError, RayError, RayStateApiException) as error:
        # A cluster that is deleted as a whole has no head any more: there is nothing to move, and nowhere to.
        said = f"Nothing more is moved. {error}"
    print(said, file=sys.stderr)


if __name__ == "__main__":
    main()
