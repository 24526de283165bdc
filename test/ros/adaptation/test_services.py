from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_harness import wait_until
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from ditta_ros.adaptation.services import AdaptationExecutor, Switch
from ditta_ros.process.executor import BackgroundExecutor


@pytest.fixture
def node(ros: None) -> Iterator[Node]:
    """The main node; nobody spins it, as if it were busy all the time."""
    node = Node("busy", namespace="robot", cli_args=["--ros-args", "-r", "~/reset:=/restart"])
    yield node
    node.destroy_node()


def call(service: str, request: SetBool.Request | None = None) -> Trigger.Response:
    """Call a service by its full name."""
    node = Node("caller")
    client = node.create_client(Trigger if request is None else SetBool, service)
    assert client.wait_for_service(30), f"no service {service}"
    future = client.call_async(request or Trigger.Request())
    rclpy.spin_until_future_complete(node, future, timeout_sec=30)
    response = future.result()
    node.destroy_node()
    assert response is not None
    return response


def test_services_are_answered_while_the_main_node_is_busy(node: Node) -> None:
    def refuse() -> str:
        raise ValueError("expected an active node, but it is inactive")

    executor = AdaptationExecutor(node, lambda: None, {"~/adapt": lambda: "adapting", "~/reset": refuse})
    answer = call("/robot/busy/adapt")
    assert (answer.success, answer.message) == (True, "adapting")
    answer = call("/restart")  # remapped on the main node
    assert (answer.success, answer.message) == (False, "expected an active node, but it is inactive")
    executor.close()


def test_a_switch_is_given_what_was_asked_for(node: Node) -> None:
    def turn(wanted: bool) -> str:
        if not wanted:
            raise ValueError("expected an active node, but it is inactive")
        return "on"

    executor = AdaptationExecutor(node, lambda: None, {"~/enable": Switch(turn)})
    answer = call("/robot/busy/enable", SetBool.Request(data=True))
    assert (answer.success, answer.message) == (True, "on")
    answer = call("/robot/busy/enable", SetBool.Request(data=False))
    assert (answer.success, answer.message) == (False, "expected an active node, but it is inactive")
    executor.close()


def test_whatever_goes_wrong_in_a_request_the_next_one_is_answered(node: Node) -> None:
    def fail() -> str:
        raise MemoryError("no room for a file")

    executor = AdaptationExecutor(node, lambda: None, {"~/adapt": lambda: "adapting", "~/save": fail})
    answer = call("/robot/busy/save")
    assert (answer.success, answer.message) == (False, "MemoryError: no room for a file")
    assert call("/robot/busy/adapt").success
    assert executor.error is None
    executor.close()


def test_services_come_and_go_while_it_spins(node: Node) -> None:
    def names() -> set[str]:
        return {name for name, _ in node.get_service_names_and_types() if name.startswith("/robot/busy/front")}

    executor = AdaptationExecutor(node, lambda: None, {"~/adapt": lambda: "all"})
    for _ in range(3):
        executor.serve({"~/front/adapt": lambda: "front", "~/front/save": lambda: "saved"})
        assert call("/robot/busy/front/adapt").message == "front"
        assert call("/robot/busy/front/save").message == "saved"
        executor.withdraw(["~/front/adapt", "~/front/save"])
        wait_until(lambda: not names(), "the services to go")
        assert call("/robot/busy/adapt").message == "all"
    executor.close()


def test_polls_on_though_one_poll_fails_and_simulated_time_stands_still(node: Node) -> None:
    node.set_parameters([Parameter("use_sim_time", value=True)])
    polls: list[str] = []

    def poll() -> None:
        polls.append(threading.current_thread().name)
        if len(polls) == 1:
            raise RuntimeError("a result of another model")

    executor = AdaptationExecutor(node, poll, {})
    wait_until(lambda: len(polls) >= 4, "polls")
    executor.close()
    count = len(polls)
    time.sleep(0.3)
    assert len(polls) == count, "polled after close"
    assert set(polls) == {"adaptation executor"}


def test_the_helper_is_hidden(node: Node) -> None:
    executor = AdaptationExecutor(node, lambda: None, {})
    names = wait_until(lambda: [name for name in node.get_node_names() if "adaptation" in name], "the helper")
    assert names == ["_busy_adaptation"]
    executor.close()


def test_stopping_waits_for_the_callback_that_runs(node: Node) -> None:
    done: list[bool] = []

    def slow(_: String) -> None:
        started.set()
        time.sleep(0.3)
        done.append(True)

    started = threading.Event()
    node.create_subscription(String, "words", slow, 10)
    publisher = node.create_publisher(String, "words", 10)
    executor = BackgroundExecutor(node, "background")
    publisher.publish(String(data="hello"))
    assert started.wait(30)
    executor.stop()
    assert done
    assert executor.ended.is_set()
    assert executor.error is None


def test_stops_where_nothing_ever_happens(node: Node) -> None:
    executor = BackgroundExecutor(node, "background")
    time.sleep(0.2)
    stopper = threading.Thread(target=executor.stop, daemon=True)
    stopper.start()
    stopper.join(30)
    assert executor.ended.is_set()


def test_an_exception_ends_it_and_is_kept(node: Node) -> None:
    def fail() -> None:
        raise RuntimeError("broken callback")

    node.create_timer(0.01, fail)
    executor = BackgroundExecutor(node, "background")
    assert executor.ended.wait(30)
    assert isinstance(executor.error, RuntimeError)
    executor.stop()
