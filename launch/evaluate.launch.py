"""Measure the running node on a labelled bag: ``ros2 launch ditta_ros evaluate.launch.py bag:=FOLDER report:=FOLDER``.

The bag is played to the node in a ROS domain of their own; its masks are compared with the labels, and a report is
written. This is ``ditta evaluate --node`` with arguments of launch; the launch ends with exit code 1 where it fails.
"""

import sys

from launch.action import Action
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, RegisterEventHandler, Shutdown
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration

from launch import LaunchContext, LaunchDescription

OPTIONS = {
    "report": ("runs/evaluate", "Folder for report.html, plots, the overlay video and results.json."),
    "model": ("camvid", "One of those that `ditta models` lists."),
    "classes": ("", "Classes to compare in, as YAML text, file or packaged list; empty: the model's own."),
    "device": ("cpu", "Device of torch, such as cpu or cuda:0."),
    "teacher": ("flow", "What the warm-up learns from."),
    "method": ("source,ditta", "Methods to compare the running node with; `ditta evaluate --list-methods` has them."),
    "warmup_ratio": ("", "Percent of the frames that are the warm-up; empty: 10."),
    "input_size": ("", "WIDTHxHEIGHT of the network input; empty: auto, found for each video."),
    "max_frames": ("", "Only the first frames of the bag; empty: all."),
    "image_topic": ("", "Topic of the images in the bag; empty: the only one."),
    "ground_truth_topic": ("", "Topic of the labels in the bag; empty: /ground_truth/semantic."),
    "rate": ("1.0", "How many times as fast as recorded the bag is played."),
    "work": ("", "Where finished parts wait for the end of an interrupted evaluation; empty: runs/evaluation."),
}
"""Options of `ditta evaluate`; those that are empty are left to it."""
FLAGS = {
    "lockstep": ("false", "Whether every frame waits for the mask of the last, instead of coming in time."),
    "whole_video": ("false", "Whether all frames are measured, those of the warm-up included."),
    "quick": ("false", "Whether to take a first look: 50 frames, a smaller network input."),
    "fresh": ("false", "Whether to start over instead of going on with an interrupted evaluation."),
}
FLAG = ["true", "false", "True", "False"]


def start(context: LaunchContext) -> list[Action]:
    """The evaluation, with the end of which the launch ends."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ("bag", *OPTIONS, *FLAGS)}
    command = [sys.executable, "-m", "ditta_ros.cli", "evaluate", given["bag"], "--format", "bag", "--node"]
    words = {name: f"--{name.replace('_', '-')}" for name in (*OPTIONS, *FLAGS)}
    for name in OPTIONS:
        command += [words[name], given[name]] if given[name] else []
    command += [words[name] for name in FLAGS if given[name].lower() == "true"]
    evaluation = ExecuteProcess(
        cmd=command,
        name="evaluate",
        output="screen",
        emulate_tty=True,
        sigterm_timeout="30",  # it ends a camera, a node and a recorder
    )
    return [RegisterEventHandler(OnProcessExit(target_action=evaluation, on_exit=end)), evaluation]


def end(event: ProcessExited, context: LaunchContext) -> Action | None:
    """End the launch; an exception is what gives it an exit code other than 0."""
    if context.is_shutdown:
        return None
    if event.returncode != 0:
        raise RuntimeError(f"the evaluation ended with exit code {event.returncode}; its messages above say why")
    return Shutdown(reason="the evaluation is done")


def generate_launch_description() -> LaunchDescription:
    """The arguments and the evaluation."""
    arguments = [
        DeclareLaunchArgument("bag", description="Labelled bag, such as `ditta bag make` makes."),
        *(
            DeclareLaunchArgument(
                name, default_value=default, description=text, choices=FLAG if name in FLAGS else None
            )
            for name, (default, text) in {**OPTIONS, **FLAGS}.items()
        ),
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])
