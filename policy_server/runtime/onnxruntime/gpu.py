"""What a machine has for CUDA and TensorRT, as its drivers and libraries tell.

This needs neither torch nor ONNX Runtime.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
from collections.abc import Callable
from pathlib import Path

DEVICES = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/dxg")
LIBRARIES = {  # what a provider loads: (any of these files, how to get it)
    "cuda": (
        (("libcudart.so.13", "libcudart.so.12"), "pip install nvidia-cuda-runtime"),
        (("libcublasLt.so.13", "libcublasLt.so.12"), "pip install nvidia-cublas"),
        (("libcudnn.so.9",), "pip install nvidia-cudnn-cu13, or -cu12"),
    ),
    "tensorrt": ((("libnvinfer.so.11", "libnvinfer.so.10"), "pip install tensorrt"),),
}
COMPUTE_CAPABILITY_MAJOR = 75  # CUdevice_attribute
COMPUTE_CAPABILITY_MINOR = 76

Load = Callable[[str], object]


def present() -> bool:
    """Returns whether a driver shows an NVIDIA GPU."""
    return any(Path(device).exists() for device in DEVICES)


def missing_libraries(provider: str, load: Load = ctypes.CDLL) -> list[str]:
    """Returns the libraries that do not load, each with how to get it.

    Args:
        provider: cuda or tensorrt, which needs the libraries of cuda too.
        load: Loads a library by name, or raises OSError.
    """
    wanted = LIBRARIES["cuda"] + (LIBRARIES["tensorrt"] if provider == "tensorrt" else ())
    return [f"{' or '.join(names)} ({how})" for names, how in wanted if not _any_loads(names, load)]


def complaint(folder: Path, provider: str, load: Load = ctypes.CDLL) -> str:
    """Returns why ONNX Runtime's own library of a provider does not load, or "" if it does.

    Only the loader knows which versions ONNX Runtime was built with. It names what is missing.

    Args:
        folder: Where ONNX Runtime's libraries are.
        provider: cuda or tensorrt.
        load: Loads a library by path, or raises OSError.
    """
    for name in ("shared", provider):  # the provider's library needs the shared one
        path = folder / f"libonnxruntime_providers_{name}.so"
        try:
            if path.exists():
                load(str(path))
        except OSError as error:
            return " ".join(str(error).split())
    return ""


def preload_tensorrt(load: Callable[..., object] = ctypes.CDLL) -> None:
    """Loads the libraries of pip's tensorrt, which are where no loader looks.

    The order matters: the later ones need the earlier ones.
    """
    spec = importlib.util.find_spec("tensorrt_libs")
    folders = (spec.submodule_search_locations if spec else None) or ()
    for folder in folders:
        for stem in ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser"):
            for path in sorted(Path(folder).glob(f"{stem}.so.*")):
                with contextlib.suppress(OSError):
                    load(str(path), ctypes.RTLD_GLOBAL)


def _any_loads(names: tuple[str, ...], load: Load) -> bool:
    for name in names:
        with contextlib.suppress(OSError):
            load(name)
            return True
    return False


def name(load: Callable[[str], ctypes.CDLL] = ctypes.CDLL) -> str:
    """Returns the first GPU's name and compute capability, like `NVIDIA H100 80GB HBM3 sm90`.

    Raises:
        OSError: There is no driver, or it shows no GPU.
    """
    cuda = load("libcuda.so.1")
    device = ctypes.c_int()
    text = ctypes.create_string_buffer(128)
    major = ctypes.c_int()
    minor = ctypes.c_int()
    answers = (
        cuda.cuInit(0),
        cuda.cuDeviceGet(ctypes.byref(device), 0),
        cuda.cuDeviceGetName(text, len(text), device),
        cuda.cuDeviceGetAttribute(ctypes.byref(major), COMPUTE_CAPABILITY_MAJOR, device),
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), COMPUTE_CAPABILITY_MINOR, device),
    )
    if any(answers):
        raise OSError(f"the CUDA driver answered {answers}, expected zeros: it shows no usable GPU")
    return f"{text.value.decode()} sm{major.value}{minor.value}"


def tensorrt_version(load: Callable[[str], ctypes.CDLL] = ctypes.CDLL) -> int:
    """Returns TensorRT's version number as its library gives it.

    Raises:
        OSError: TensorRT is not installed.
    """
    [(libraries, how)] = LIBRARIES["tensorrt"]
    for library in libraries:
        with contextlib.suppress(OSError):
            return int(load(library).getInferLibVersion())
    raise OSError(f"none of {', '.join(libraries)} loads; {how}")
