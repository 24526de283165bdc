r"""Convert a SegFormer in the layout of the DiTTA release into a file that the model ``ditta:<file>`` loads.

    python tools/convert_ditta_checkpoint.py segformer_b5_vspw.pth vspw.safetensors --add-on add_on.pth
    ditta evaluate --format vspw --model ditta:vspw.safetensors ...

The weights are the user's own: none come with this package, and the authors' are released under a licence that does not
permit commercial use. The add-on's initial weights are taken from the checkpoint, or from ``--add-on`` where they are
in a file of their own; without any, they are random. Files are read without running code in them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ditta_core.classes import ClassList
from ditta_core.segmentation.ditta_segformer import (
    HEADS,
    convert,
    load_ditta_segformer,
    read_released,
    save_ditta_segformer,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="backbone.* and decode_head.*, .pth or .safetensors")
    parser.add_argument("out", type=Path, help="the .safetensors file to write")
    parser.add_argument("--add-on", type=Path, help="a file with query_layer, key_layer and proj_feat")
    parser.add_argument("--classes", default="", help="name or file of the class list; VSPW's for 124 outputs")
    parser.add_argument("--heads", type=int, nargs=4, default=HEADS, help="attention heads of the four levels")
    options = parser.parse_args()
    names = ClassList.parse(options.classes).names if options.classes else ()
    add_on = read_released(options.add_on) if options.add_on else None
    converted = convert(read_released(options.checkpoint), add_on, names, options.heads)
    save_ditta_segformer(converted, options.out)
    model = load_ditta_segformer(options.out)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{options.out}: {parameters / 1e6:.1f} M parameters, widths {converted.shape.widths}, depths "
        f"{converted.shape.depths}, head {converted.shape.dim}, {len(model.classes)} classes, add-on "
        f"{'of the file' if model.add_on_weights else 'random'}"
    )


if __name__ == "__main__":
    main()
