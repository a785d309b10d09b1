"""Files of weights that others made: found out what they are, and read without ever running anything in them.

Owns the formats, and which part of a file is the weights. Knows no net: what the tensors are called is
`study/nets/weight_names.py`. Every refusal is an `InputError` of one line that names the file and what it is.
"""

import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from study.spec import InputError

STATE_DICT = "save a state dict: torch.save(net.state_dict(), PATH), or safetensors"
# Where checkpoints have the weights, beside epochs and optimisers; of several the first, unless another is named.
KEYS = (
    *(
        "state_dict",
        "model_state_dict",
        "model_state",
        "model",
        "net",
        "net_state_dict",
        "network",
        "weights",
        "params",
    ),
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "module"),
)
# Classes of what lies beside weights in checkpoints. In their place stands an object without content.
BESIDE = (
    *("argparse.Namespace", "pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath"),
    *("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "datetime.datetime"),
)
# How files of torch.save begin from before it wrote zip archives, by any protocol of pickle.
MAGIC = re.compile(rb"\x80[\x02-\x05](\x95.{8})?\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19", re.S)
HEAD = 4096  # bytes that tell a format
HTML = "an HTML page, as servers answer instead of a file; download the file itself"
ARCHIVE = "an archive; unpack it, and name the file in it"
BUFFER = "a protocol buffer, as Caffe's, ONNX's and TensorFlow's models"
KINDS = (  # how files begin that are none of weights as they are read here
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself; get it by `git lfs pull`, or download it"),
    (rb"(?i)(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body)", HTML),
    (rb"(\xef\xbb\xbf)?\s*<\?xml", "an XML page, as servers answer instead of a file; download the file itself"),
    (rb"\x89HDF\r\n", "an HDF5 file, as of Keras"),
    (rb"\x1f\x8b|BZh\d|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!|.{257}ustar", ARCHIVE),
    (rb"\x93NUMPY", "an array of NumPy"),
    (rb"GGUF|.{4}TFL3|\x12\x01\0{6}", "a model of GGUF, TensorFlow Lite or MXNet"),
    (rb"\x89PNG|\xff\xd8\xff|%PDF|MATLAB", "an image or a document"),
    (
        rb"[\x80][\x02-\x05]",
        "a pickle that torch.save did not write, as Detectron2's .pkl: unpickling can run any code",
    ),
    (
        rb"\s*[\[{]",
        "JSON, as an index or a configuration beside weights, or a server's error; name the file of the weights",
    ),
    (rb"[\x08\x0a]", BUFFER),
    (rb"\0+$", "zeros, a copy that did not end"),
    (rb"[\t\r\n\x20-\x7e]+$", "a text, as a server's error"),
)
ENDINGS = {  # of files whose beginning tells little
    **dict.fromkeys((".onnx", ".pb", ".pbtxt", ".caffemodel", ".prototxt"), BUFFER),
    **dict.fromkeys((".index", ".meta", ".data-00000-of-00001"), "a checkpoint of TensorFlow"),
    ".t7": "a file of Lua Torch",
    ".pdparams": "a file of PaddlePaddle",
    ".msgpack": "a file of Flax",
}


@dataclass(frozen=True)
class Weights:
    """The tensors of a file, float of any precision, and where they were in it."""

    path: Path
    tensors: Mapping[str, Tensor]
    key: str = ""  # '' if they are all of the file
    others: tuple[str, ...] = ()  # keys of further weights in the file


class _Beside:
    """In place of an object that is not looked at."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def read_weights(path: Path, key: str = "") -> Weights:
    """The weights in a file of torch.save or safetensors, on the CPU; under `key`, if it holds several.

    Raises `InputError` for a file that is none, for what only running its code would read, and for tensors that are no
    weights: not dense, of integers, not finite, or larger than the file.
    """
    path = path.expanduser()
    try:
        with _opened(path) as file:
            head = file.read(HEAD)
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); name a file that can") from None
    contents: Any
    if path.suffix == ".safetensors" or re.match(rb".{4}\0{4}\{", head, re.S):
        contents = _safetensors(path, head)
    else:
        contents = _torch(path, head)
    found = dict(_state_dicts(contents))
    if not found:
        raise InputError(
            f"{path} is no state dict of a convolutional net: it has no weights of convolutions; {STATE_DICT}"
        )
    if key and key not in found:
        raise InputError(f"{path} has no weights under the key {key!r}; choose one of {', '.join(map(repr, found))}")
    if not key and "" not in found:
        usual = [name for name in KEYS if name in found]
        if not usual and len(found) > 1:
            raise InputError(f"{path} has weights under several keys; choose one with --key: {', '.join(found)}")
        key = (usual or list(found))[0]
    tensors = found[key]
    _check(path, tensors, size)
    return Weights(path, tensors, key, tuple(name for name in found if name and name != key))


def _opened(path: Path) -> Any:
    if path.is_dir():
        inside = sorted(file.name for file in path.iterdir() if file.suffix in (".safetensors", ".bin", ".pth", ".pt"))
        name = f": {', '.join(inside[:3])}" if inside else ""
        raise InputError(f"{path} is a folder; name the file in it{name}")
    if not path.exists():
        raise InputError(f"{path} is missing: there is no such file; name another")
    if not path.is_file():
        raise InputError(f"{path} is no file, but a device or a pipe; name a file")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty: 0 bytes, as of a download that failed; get the file again")
    return path.open("rb")


def _safetensors(path: Path, head: bytes) -> Any:
    if not re.match(rb".{8}\{", head, re.S):
        raise _refusal(path, head)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} is a damaged or half-downloaded file of safetensors ({reason}); get it again"
        ) from None


def _torch(path: Path, head: bytes) -> Any:
    """What torch.save wrote, by PyTorch's reader that knows tensors and containers and calls nothing else."""
    if head.startswith(b"PK"):
        _check_archive(path)
    elif not MAGIC.match(head):
        raise _refusal(path, head)
    try:
        if head.startswith(b"PK") and (classes := _classes(path)):
            raise InputError(
                f"{path} holds a pickled object of class {classes[0]}, as a whole net does; what is pickled can run any"
                f" code, so it is not read: {STATE_DICT}"
            )
        stand_ins: list[Any] = [(_Beside, name) for name in BESIDE]
        # Warnings are of formats that `_check` refuses.
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # of a damaged pickle it raises nearly anything
        # Not PyTorch's message: it offers to run what is in the file.
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}): the file is damaged or half-downloaded, or holds pickled"
            f" objects or a protocol of pickle above 3, which are not read; get it again, or {STATE_DICT}"
        ) from None


def _classes(path: Path) -> list[str]:
    """The classes of objects in an archive that are neither tensors nor known to lie beside them."""
    return sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(str(path))) - set(BESIDE))


def _check_archive(path: Path) -> None:
    """Raise `InputError` unless it is an archive of torch.save: whole, with a pickle, and as large as its contents."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
            damaged = archive.testzip() if stored else None  # a checksum that torch.load does not look at
    except Exception:  # of a damaged archive it raises nearly anything
        raise InputError(
            f"{path} is damaged or half-downloaded: a zip archive without its end; get the file again"
        ) from None
    if damaged:
        raise InputError(f"{path} is damaged: {damaged} in it has another checksum; get the file again")
    names = [member.filename for member in members]
    what = ""
    if any(name.endswith("constants.pkl") for name in names):
        what = f"an archive of TorchScript, which holds code; {STATE_DICT}"
    elif any(name.endswith(".npy") for name in names):
        what = f"an archive of NumPy's arrays (.npz); {STATE_DICT}"
    elif any(name.endswith((".h5", "saved_model.pb")) for name in names):
        what = f"a model of Keras or TensorFlow; {STATE_DICT}"
    elif not any(name.rpartition("/")[2] == "data.pkl" for name in names):
        what = f"a zip archive without a pickle of torch.save's ({', '.join(names[:3])}); unpack it, or {STATE_DICT}"
    elif not stored:
        what = f"an archive with compressed parts, which torch.save does not write; {STATE_DICT}"
    if what:
        raise InputError(f"{path} is {what}")


def _refusal(path: Path, head: bytes) -> InputError:
    by_ending = next((kind for ending, kind in ENDINGS.items() if path.name.endswith(ending)), "")
    by_head = next((kind for pattern, kind in KINDS if re.match(pattern, head, re.S)), "")
    # A pointer or a page has whatever ending was asked for; a protocol buffer is told by its ending.
    kind = by_head if by_head and by_head not in (BUFFER, KINDS[-1][1]) else by_ending or by_head
    return InputError(f"{path} is no state dict, but {kind or 'of no format known here'}; {STATE_DICT}")


def _state_dicts(contents: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The state dicts in what a file holds, by their keys: `state_dict`, `model.state_dict`, '' for the whole."""
    if isinstance(contents, (list, tuple)):
        contents = dict(enumerate(contents))
    if not isinstance(contents, Mapping) or depth > 3:
        return
    tensors = {str(name): value.detach() for name, value in contents.items() if isinstance(value, Tensor)}
    if any(tensor.dim() == 4 for tensor in tensors.values()):  # of a convolution; accuracies may lie beside weights
        yield path, tensors
        return
    for name, value in contents.items():
        if not re.search(r"optim|sched|scaler|history|random|rng", str(name)):
            yield from _state_dicts(value, f"{path}.{name}" if path else str(name), depth + 1)


def _check(path: Path, tensors: Mapping[str, Tensor], size: int) -> None:
    """Raise `InputError` for a tensor that cannot be a weight, and for more of them than a file of `size` bytes has."""
    total = 0
    for name, tensor in tensors.items():
        if tensor.is_meta:
            what = "has a shape and no values (device 'meta')"
        elif tensor.is_quantized or not tensor.dtype.is_floating_point and tensor.numel() > 1:
            what = f"is of {str(tensor.dtype).removeprefix('torch.')}, and weights are floating-point numbers"
        elif tensor.layout != torch.strided:
            what = f"is of layout {str(tensor.layout).removeprefix('torch.')}, and weights are dense; use .to_dense()"
        else:
            total += tensor.numel() * tensor.element_size()
            continue
        raise InputError(f"{path}: {name} {what}; {STATE_DICT}")
    if total > 4 * size + 2**20:
        raise InputError(
            f"{path} holds views of {total} bytes in a file of {size}: tensors that repeat what is stored; {STATE_DICT}"
        )
    for name, tensor in tensors.items():
        if tensor.dtype.is_floating_point and not (finite := tensor.float().isfinite()).all():
            count = int((~finite).sum())
            raise InputError(f"{path}: {count} of {tensor.numel()} values of {name} are not finite numbers")
