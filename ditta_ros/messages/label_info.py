"""The classes as ``vision_msgs/LabelInfo``, where ``vision_msgs`` is installed: what Nav2's semantic layer reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ditta_core.classes import ClassList

if TYPE_CHECKING:
    from vision_msgs.msg import LabelInfo


def label_info_message(classes: ClassList) -> LabelInfo | None:
    """The ids and names of the classes; None where ``vision_msgs`` cannot be imported.

    Unlabelled pixels have no entry: by the definition of the message their id is the largest one of the label image
    anyway, and Nav2's layer complains of every class that its configuration does not give a cost. The threshold is 0,
    as pixels below ``min_confidence``, which may change, are unlabelled already; the header is empty, as the message
    holds for as long as the node runs.
    """
    try:
        from std_msgs.msg import Header
        from vision_msgs.msg import LabelInfo, VisionClass
    except ImportError:
        return None
    class_map = [VisionClass(class_id=index, class_name=name) for index, name in enumerate(classes.names)]
    return LabelInfo(header=Header(), class_map=class_map, threshold=0.0)
