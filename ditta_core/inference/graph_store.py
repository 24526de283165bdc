"""Graphs of networks, traced once: kept in memory and, where there is a folder for them, on disk.

Tracing takes seconds of the interpreter, reading a graph back a fifth of one. A graph holds no weights, so that one
file serves every generation of a model, and where the model says so, one serves many sizes of the network input. Its
name is a hash of all that the trace depends on. A file that is damaged, or whose network contradicts torch, is traced
anew. The base model, which serves after every start, is kept compiled as well, once it was compared with torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import re
import stat
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FunctionType

import numpy as np
import torch
from torch import Tensor, nn

from ditta_core.datasets.paths import output_path
from ditta_core.inference.graph_tracer import GraphTracer, TracingFailed
from ditta_core.inference.openvino_network import (
    Blueprint,
    OpenVINONetwork,
    import_openvino,
    processor_name,
    weights_of,
)
from ditta_core.versions import distribution_version

MAGIC = b"ditta_ros graph 1\n"
LARGEST_GRAPH = 64 * 2**20
"""Bytes of the largest file that is read; a graph of the packaged models takes 2 MB, compiled they take 4."""
LARGEST_COMPILED = LARGEST_GRAPH // 2
"""Bytes of the largest compiled network that is kept: it has the weights in it, and reading them must pay."""
KEPT_BLUEPRINTS = 4
"""Number of graphs that are kept in memory, some ten megabytes each, at worst one a size of the network input: two each
for two cameras."""
KEPT_FILES = 64
"""Number of files that are kept: graphs, compiled networks, marks of sizes. Those not used for longest go first."""
_CORE = Path(__file__).resolve().parents[1]
_OWN_ATTRIBUTES = frozenset(vars(nn.Module())) - {"training"}
"""Attributes that every module has; what is in them is told by the modules and weights inside."""


def default_graph_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The user's folder for graphs: below XDG_CACHE_HOME, else ROS_HOME, else ``~/.cache``."""
    for variable, rest in (("XDG_CACHE_HOME", "ditta_ros/graphs"), ("ROS_HOME", "ditta_ros/graphs")):
        if environment.get(variable):
            return output_path(environment[variable]) / rest
    return output_path("~/.cache/ditta_ros/graphs")


@dataclass(frozen=True)
class GraphKey:
    """Which graph it is.

    Attributes:
        fingerprint: What the trace depends on besides the size, see :func:`module_fingerprint`.
        size: Size (H, W) of the input; None for a graph of many sizes.
    """

    fingerprint: str
    size: tuple[int, int] | None

    @property
    def file_name(self) -> str:
        """Its name in the folder of graphs."""
        size = "any" if self.size is None else f"{self.size[0]}x{self.size[1]}"
        return f"{self.fingerprint}-{size}.graph"


class GraphStore:
    """Gives the graph of a module for a size: from memory, from disk, or traced. For one thread at a time.

    Args:
        folder: Folder of the files, which is made with access for its owner alone; None keeps nothing on disk.
        elsewhere: Whether tracing is done by another process, so that this one's interpreter is free meanwhile; where
            that fails, it is done here.
    """

    def __init__(self, folder: Path | None = None, elsewhere: bool = False) -> None:
        self.folder = folder
        self._blueprints: dict[GraphKey, Blueprint] = {}
        self._from_disk: set[GraphKey] = set()
        self._tracer = GraphTracer() if elsewhere else None

    def blueprint(
        self, module: nn.Module, size: tuple[int, int], common_size: tuple[int, int] | None = None
    ) -> Blueprint:
        """The graph of a module in evaluation mode for pixels float [1, 3, H, W]; raises whatever tracing raises.

        Args:
            size: of the pixels (H, W).
            common_size: the one to trace at for a graph of this size and all others of which the same is said; None
                where a graph serves the size that it was traced at.
        """
        key = GraphKey(module_fingerprint(module), None if common_size else size)
        blueprint = self._blueprints.pop(key, None) or self._read(key, module)
        if blueprint is None:
            blueprint = self._trace(key, module, common_size or size)
        self._blueprints[key] = blueprint  # an LRU cache: the one used last comes last
        for oldest in list(self._blueprints)[:-KEPT_BLUEPRINTS]:
            del self._blueprints[oldest]
        self._mark(key.fingerprint, size)
        return blueprint

    def distrust(self, module: nn.Module, size: tuple[int, int], common_size: tuple[int, int] | None = None) -> bool:
        """Forget a graph that gives wrong results; returns whether it came from disk, so that a new trace may help."""
        key = GraphKey(module_fingerprint(module), None if common_size else size)
        self._blueprints.pop(key, None)
        from_disk = key in self._from_disk
        self._from_disk.discard(key)
        if from_disk and self.folder is not None:
            with contextlib.suppress(OSError):
                (self.folder / key.file_name).unlink(missing_ok=True)
        return from_disk

    def compiled(self, module: nn.Module, size: tuple[int, int], precision: str) -> OpenVINONetwork | None:
        """The network with the weights of this module that was kept, see :meth:`keep_compiled`; None for none."""
        if self.folder is None or self.problem():
            return None
        try:
            path = self.folder / _compiled_name(module, size, precision)
            network = OpenVINONetwork.from_bytes(unpacked(_read_regular(path)), precision)
            os.utime(path)  # used last
        except Exception:  # whatever lies there and whatever OpenVINO makes of it: it is compiled anew
            return None
        self._mark(module_fingerprint(module), size)
        if self._tracer is not None:
            self._tracer.dismiss()
        return network

    def keep_compiled(self, module: nn.Module, size: tuple[int, int], precision: str, network: OpenVINONetwork) -> None:
        """Keep a network on disk that was compiled for pixels of this size (H, W), and agrees with the module."""
        if self.folder is None or self.problem():
            return
        with contextlib.suppress(OSError, RuntimeError):  # it is compiled and compared again after the next start
            data = network.to_bytes()
            if len(data) <= LARGEST_COMPILED:
                self._write(self.folder / _compiled_name(module, size, precision), packed(data))

    def sizes(self, module: nn.Module) -> list[tuple[int, int]]:
        """Sizes (H, W) for which a graph of a module was asked for, in earlier processes too, the last one first."""
        if self.folder is None or self.problem():
            return []
        found: list[tuple[float, tuple[int, int]]] = []
        with contextlib.suppress(OSError):
            for file in self.folder.glob(f"{module_fingerprint(module)}-*.size"):
                size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", file.stem.rpartition("-")[2])
                if size is not None:
                    found.append((file.stat().st_mtime, (int(size[1]), int(size[2]))))
        return [size for _, size in sorted(found, reverse=True)]

    def _mark(self, fingerprint: str, size: tuple[int, int]) -> None:
        """Keep that frames of this size (H, W) came last."""
        if self.folder is not None and not self.problem():
            with contextlib.suppress(OSError):
                (self.folder / f"{fingerprint}-{size[0]}x{size[1]}.size").touch(mode=0o600)

    def problem(self) -> str:
        """Why nothing is kept on disk though there is a folder for it, in a sentence; empty where it is kept."""
        if self.folder is None:
            return ""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.folder.stat()
        except OSError as error:
            return f"expected to write to the folder of graphs {self.folder}, but got: {error.strerror or error}"
        if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
            return (
                f"expected the folder of graphs {self.folder} to belong to this user and nobody else to write to it, "
                f"but it does not; remove it, or name another place in XDG_CACHE_HOME"
            )
        return ""

    def expect_trace(self) -> None:
        """A trace is likely to be needed soon: the process that does it starts up meanwhile."""
        if self._tracer is not None:
            self._tracer.start()

    def close(self) -> None:
        """End the process that traces, where there is one."""
        if self._tracer is not None:
            self._tracer.close()

    def _read(self, key: GraphKey, module: nn.Module) -> Blueprint | None:
        """The graph on disk; None where there is none that can be used."""
        if self.folder is None or self.problem():
            return None
        try:
            path = self.folder / key.file_name
            blueprint = Blueprint.from_bytes(unpacked(_read_regular(path)), module, key.size)
            os.utime(path)  # used last
        except Exception:  # whatever lies there and whatever a parser makes of it: it is traced anew
            return None
        self._from_disk.add(key)
        if self._tracer is not None:
            self._tracer.dismiss()
        return blueprint

    def _trace(self, key: GraphKey, module: nn.Module, size: tuple[int, int]) -> Blueprint:
        graph: bytes | None = None
        blueprint: Blueprint | None = None
        resizable = key.size is None
        if self._tracer is not None:
            try:
                graph = self._tracer.trace(module, size, resizable)
                blueprint = Blueprint.from_bytes(graph, module, key.size)
            except (TracingFailed, ValueError, RuntimeError):
                if self._tracer.closed:  # nobody waits for it any more
                    raise
        if blueprint is None:
            blueprint, graph = Blueprint(module, size, resizable), None
        if self.folder is not None and not self.problem():
            with contextlib.suppress(OSError):  # nothing is lost but the time of the next trace
                self._write(self.folder / key.file_name, packed(blueprint.to_bytes() if graph is None else graph))
        return blueprint

    def _write(self, path: Path, data: bytes) -> None:
        """Write a file, so that whoever reads it finds it whole; of many, the oldest go."""
        descriptor, temporary = tempfile.mkstemp(".tmp", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
        files = sorted(path.parent.iterdir(), key=lambda file: file.stat().st_mtime)
        for old in files[:-KEPT_FILES]:
            old.unlink(missing_ok=True)


def _compiled_name(module: nn.Module, size: tuple[int, int], precision: str) -> str:
    """Name of the file of a compiled network: a hash of all that its answers and its form depend on."""
    fingerprint = module_fingerprint(module)
    digest = hashlib.sha256(repr((size, precision, torch.get_num_threads(), processor_name())).encode())
    for value in weights_of(module).values():
        digest.update(value.cpu().flatten().view(torch.uint8).numpy().tobytes())
    return f"{fingerprint}-{digest.hexdigest()[:32]}.compiled"


def packed(graph: bytes) -> bytes:
    """A graph with what finds damage: OpenVINO does not survive every file."""
    return MAGIC + hashlib.sha256(graph).digest() + graph


def unpacked(data: bytes) -> bytes:
    """The graph in a file; a ValueError where it is damaged."""
    checksum, graph = data[len(MAGIC) : len(MAGIC) + 32], data[len(MAGIC) + 32 :]
    if not data.startswith(MAGIC) or hashlib.sha256(graph).digest() != checksum:
        raise ValueError("expected a graph, but the file is damaged or something else")
    return graph


def _read_regular(path: Path) -> bytes:
    """A file's content; OSError where it is none, or too large. Opening a pipe does not wait."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST_GRAPH:
            raise OSError(f"expected a regular file of at most {LARGEST_GRAPH} bytes")
        return file.read(LARGEST_GRAPH)


# --- which graph is it? ----------------------------------------------------------------------------------------------


def module_fingerprint(module: nn.Module) -> str:
    """What the trace of a module depends on besides the size of its input, as 32 hex digits.

    That is its code, its settings, the names and shapes of its weights, and the versions of what traces; the values of
    the weights do not count.
    """
    digest = hashlib.sha256()

    def add(*values: object) -> None:
        digest.update(repr(values).encode())

    add(torch.__version__, import_openvino().__version__, sys.version_info[:2], _source_hash(_own_sources()))
    for name, inner in module.named_modules(remove_duplicate=False):
        kind = type(inner)
        add(name, kind.__module__, kind.__qualname__, _code_of(kind.__mro__))
        for attribute, value in sorted(vars(inner).items()):
            if attribute not in _OWN_ATTRIBUTES:
                add(attribute, _described(value))
        for attribute, value in inner._buffers.items():
            if value is not None and not value.is_floating_point():
                add(attribute, _described(value))
    add([(name, tuple(value.shape), value.dtype) for name, value in weights_of(module).items()])
    return digest.hexdigest()[:32]


def _described(value: object) -> object:
    """A value as text that is the same in every process: content instead of addresses."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        content = np.ascontiguousarray(value)
        return content.shape, str(content.dtype), hashlib.sha256(content.tobytes()).hexdigest()
    if isinstance(value, FunctionType):
        return value.__module__, value.__qualname__, value.__code__.co_code, _described(value.__code__.co_consts)
    if isinstance(value, Mapping):
        return [(_described(name), _described(each)) for name, each in value.items()]
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_described(each) for each in value]
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _own_sources() -> tuple[Path, ...]:
    """Files of this package that networks are made of."""
    rooms = _CORE / "segmentation", _CORE / "inference"
    return _CORE / "classes.py", *(file for room in rooms for file in sorted(room.glob("*.py")))


@cache
def _source_hash(files: tuple[Path, ...]) -> str:
    """Of the content of files; those that cannot be read are left out."""
    digest = hashlib.sha256()
    for file in files:
        with contextlib.suppress(OSError):
            digest.update(file.read_bytes())
    return digest.hexdigest()


@cache
def _code_of(classes: tuple[type, ...]) -> tuple[str, ...]:
    """The code of a class and its bases: of torch by its version, of others by files and the version of the package."""
    parts = []
    for each in classes:
        package = each.__module__.partition(".")[0]
        if package in ("builtins", "abc", "typing", "torch", "ditta_core"):
            continue
        with contextlib.suppress(OSError, TypeError):
            parts.append(_source_hash((Path(inspect.getfile(each)),)))
        parts.append(f"{package} {distribution_version(package)}")
    return tuple(parts)
