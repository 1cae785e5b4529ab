"""What a machine has for CUDA and TensorRT, asked of the drivers themselves: no torch, no ONNX Runtime."""

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
COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 75, 76  # CUdevice_attribute

Load = Callable[[str], object]


def present() -> bool:
    """Returns whether a driver shows an NVIDIA GPU."""
    return any(Path(device).exists() for device in DEVICES)


def missing_libraries(provider: str, load: Load = ctypes.CDLL) -> list[str]:
    """Returns what `provider` (cuda or tensorrt, which needs cuda's too) cannot load, each with how to get it."""
    wanted = LIBRARIES["cuda"] + (LIBRARIES["tensorrt"] if provider == "tensorrt" else ())
    return [f"{' or '.join(names)} ({how})" for names, how in wanted if not _any_loads(names, load)]


def complaint(folder: Path, provider: str, load: Load = ctypes.CDLL) -> str:
    """Returns what the loader says of a provider's own library in `folder`, like the name of one it lacks; '' for good.

    It alone knows which versions ONNX Runtime was built with. The library that it shares with ONNX Runtime goes first.
    """
    for name in ("shared", provider):
        path = folder / f"libonnxruntime_providers_{name}.so"
        try:
            if path.exists():
                load(str(path))
        except OSError as error:
            return " ".join(str(error).split())
    return ""


def preload_tensorrt(load: Callable[..., object] = ctypes.CDLL) -> None:
    """Loads the libraries of pip's tensorrt, which lie where no loader looks; the later ones need the earlier."""
    spec = importlib.util.find_spec("tensorrt_libs")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for stem in ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser"):
            for path in sorted(Path(folder).glob(f"{stem}.so.*")):
                with contextlib.suppress(OSError):
                    load(str(path), ctypes.RTLD_GLOBAL)


def _any_loads(names: tuple[str, ...], load: Load) -> bool:
    for name in names:
        try:
            load(name)
            return True
        except OSError:
            continue
    return False


def name(load: Callable[[str], ctypes.CDLL] = ctypes.CDLL) -> str:
    """Returns the first GPU's name and compute capability, as `NVIDIA H100 80GB HBM3 sm90`.

    Raises:
        OSError: no driver, or it shows no GPU.
    """
    cuda = load("libcuda.so.1")
    device, text, major, minor = (
        ctypes.c_int(),
        ctypes.create_string_buffer(128),
        ctypes.c_int(),
        ctypes.c_int(),
    )
    asked = (
        cuda.cuInit(0),
        cuda.cuDeviceGet(ctypes.byref(device), 0),
        cuda.cuDeviceGetName(text, len(text), device),
        cuda.cuDeviceGetAttribute(ctypes.byref(major), COMPUTE_CAPABILITY_MAJOR, device),
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), COMPUTE_CAPABILITY_MINOR, device),
    )
    if any(asked):
        raise OSError(f"the CUDA driver answered {asked}, expected zeros: it shows no usable GPU")
    return f"{text.value.decode()} sm{major.value}{minor.value}"


def tensorrt_version(load: Callable[[str], ctypes.CDLL] = ctypes.CDLL) -> int:
    """Returns TensorRT's version number as its library gives it.

    Raises:
        OSError: there is none.
    """
    for library in LIBRARIES["tensorrt"][0][0]:
        try:
            return int(load(library).getInferLibVersion())
        except OSError:
            continue
    raise OSError(f"none of {', '.join(LIBRARIES['tensorrt'][0][0])} loads")
