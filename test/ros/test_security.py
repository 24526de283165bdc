"""The policy for SROS 2 beside the launch file, against what a real node has in the graph."""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from xml.etree import ElementTree

import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_harness import ROOT, wait_until

from ditta_ros.node import DittaNode
from ditta_ros.process.executor import BackgroundExecutor

POLICY = ROOT / "launch" / "ditta.policy.xml"
OPTIONAL = {
    "message_filters": "/_ditta_camera_synchronized",
    "vision_msgs": "/ditta/label_info",
    "bondpy": "/_ditta_bond",
}
"""Packages without which a node or a topic is not there."""


@dataclass
class Endpoints:
    """What a node has, by full names."""

    publish: set[str] = field(default_factory=set)
    subscribe: set[str] = field(default_factory=set)
    reply: set[str] = field(default_factory=set)
    request: set[str] = field(default_factory=set)

    def add(self, other: Endpoints) -> None:
        for kind, names in vars(other).items():
            vars(self)[kind] |= names


def allowed() -> dict[str, Endpoints]:
    """What the policy allows, by full names of nodes."""
    nodes: dict[str, Endpoints] = {}
    for profile in ElementTree.parse(POLICY).getroot().iter("profile"):
        name = f"{profile.attrib['ns'].rstrip('/')}/{profile.attrib['node']}"
        endpoints = nodes[name] = Endpoints()
        for rules in profile:
            assert set(rules.attrib.values()) == {"ALLOW"}
            for kind in rules.attrib:
                names = {(each.text or "").replace("~", name) for each in rules}
                assert all(each.startswith("/") for each in names)
                vars(endpoints)[kind] |= names
    return nodes


def in_graph(watcher: Node) -> dict[str, Endpoints]:
    """What the nodes of the graph have, this one left out."""
    queries: dict[str, Callable[[str, str], list[tuple[str, list[str]]]]] = {
        "publish": watcher.get_publisher_names_and_types_by_node,
        "subscribe": watcher.get_subscriber_names_and_types_by_node,
        "reply": watcher.get_service_names_and_types_by_node,
        "request": watcher.get_client_names_and_types_by_node,
    }
    nodes = [each for each in watcher.get_node_names_and_namespaces() if each[0] != watcher.get_name()]
    return {
        f"{namespace.rstrip('/')}/{name}": Endpoints(
            **{kind: {topic for topic, _ in query(name, namespace)} for kind, query in queries.items()}
        )
        for name, namespace in nodes
        if "ditta" in name
    }


def test_the_policy_allows_what_a_real_node_has_and_nothing_else(ros: None) -> None:
    watcher = rclpy.create_node("watcher")
    # A node that an earlier test killed stays in the graph for 20 s.
    wait_until(lambda: not in_graph(watcher), lambda: f"the end of {in_graph(watcher)}", 40)
    seen: dict[str, Endpoints] = defaultdict(Endpoints)
    for values in ({"depth_topic": "/camera/depth", "use_sim_time": True}, {"image_transport": "compressed"}):
        parameters = {"runtime": "torch", "warmup_on": "service", **values}
        node = DittaNode(parameter_overrides=[Parameter(name, value=value) for name, value in parameters.items()])
        executor = BackgroundExecutor(node, "node")
        images = node._image_topic()
        wait_until(
            lambda images=images: any(images in topic for topic in in_graph(watcher)["/ditta"].subscribe),
            "the node to be active",
        )
        points = "/ditta/points"
        listener = watcher.create_subscription(node._cameras[""]._outputs.points.msg_type, points, lambda _: None, 1)
        if find_spec("message_filters") is not None and node.parameters.depth_topic:
            helper = OPTIONAL["message_filters"]
            wait_until(lambda helper=helper: len(in_graph(watcher)[helper].subscribe) == 2, "the subscription to depth")
        if find_spec("bondpy") is not None:
            bond = OPTIONAL["bondpy"]
            wait_until(lambda bond=bond: in_graph(watcher).get(bond, Endpoints()).subscribe, "the end of a bond")
        for name, endpoints in in_graph(watcher).items():
            seen[name].add(endpoints)
        watcher.destroy_subscription(listener)
        executor.stop()
        node.destroy_node()
        del node, executor
        gc.collect()  # rclpy lets go of the services of a lifecycle only then
        wait_until(lambda: not in_graph(watcher), lambda: f"the end of {in_graph(watcher)}")
    watcher.destroy_node()

    expected = allowed()
    for package, name in OPTIONAL.items():
        if find_spec(package) is None:
            expected.pop(name, None)
            expected["/ditta"].publish.discard(name)
    for endpoints in expected.values():
        endpoints.reply = {name for name in endpoints.reply if has_service(name)}
    assert dict(seen) == expected


def has_service(name: str) -> bool:
    """Whether nodes of the installed ROS have a service of this name; Humble has none for descriptions of types."""
    return "type_description" not in name or find_spec("type_description_interfaces") is not None


def test_the_policy_has_the_form_of_sros2() -> None:
    root = ElementTree.parse(POLICY).getroot()
    assert (root.tag, root.attrib) == ("policy", {"version": "0.2.0"})
    assert [each.attrib["path"] for each in root.findall("enclaves/enclave")] == ["/ditta"]
    kinds = {"topics": ({"publish", "subscribe"}, "topic"), "services": ({"reply", "request"}, "service")}
    for profile in root.iterfind("enclaves/enclave/profiles/profile"):
        assert set(profile.attrib) == {"ns", "node"}
        for rules in profile:
            attributes, child = kinds[rules.tag]
            assert set(rules.attrib) <= attributes
            assert {each.tag for each in rules} == {child}
