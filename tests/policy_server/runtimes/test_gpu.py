import ctypes

import pytest

from policy_server.runtimes import engines, gpu, sessions


class Driver:
    """A libcuda that shows one GPU, or answers an error."""

    def __init__(self, error=0):
        self.error = error

    def cuInit(self, flags):
        return self.error

    def cuDeviceGet(self, device, ordinal):
        return 0

    def cuDeviceGetName(self, text, length, device):
        text.value = b"NVIDIA Test (80GB)"
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        ctypes.cast(value, ctypes.POINTER(ctypes.c_int)).contents.value = {75: 9, 76: 0}[attribute]
        return 0


def absent(name):
    raise OSError(name)


def test_the_gpu_is_named_by_its_driver():
    assert gpu.name(lambda _: Driver()) == "NVIDIA Test (80GB) sm90"
    with pytest.raises(OSError, match=r"answered \(100, 0, 0, 0, 0\)"):
        gpu.name(lambda _: Driver(100))


def test_what_is_missing_is_listed_with_its_cure():
    assert gpu.missing_libraries("cuda", lambda _: object()) == []
    lacking = gpu.missing_libraries("tensorrt", absent)
    assert len(lacking) == 4 and lacking[-1] == "libnvinfer.so.11 or libnvinfer.so.10 (pip install tensorrt)"
    assert len(gpu.missing_libraries("cuda", absent)) == 3
    with pytest.raises(OSError, match=r"none of libnvinfer\.so\.11, libnvinfer\.so\.10 loads"):
        gpu.tensorrt_version(absent)


def test_an_older_library_will_do():
    class TensorRT:
        def getInferLibVersion(self):
            return 101300

    def load(name):
        return TensorRT() if name == "libnvinfer.so.10" else absent(name)

    assert gpu.tensorrt_version(load) == 101300


def test_an_engine_belongs_to_gpu_tensorrt_graph_and_size():
    key = engines.key("NVIDIA Test (80GB) sm90", 110000, b"graph", 8)
    assert key == "NVIDIA-Test-80GB-sm90_trt110000_eef93e1d14482804_b8"  # sha256 of b"graph"
    others = [("Other sm90", 110000, b"graph", 8), ("NVIDIA Test (80GB) sm90", 110001, b"graph", 8)]
    others += [("NVIDIA Test (80GB) sm90", 110000, b"Graph", 8), ("NVIDIA Test (80GB) sm90", 110000, b"graph", None)]
    assert len({key, *(engines.key(*other) for other in others)}) == 5


def test_options_of_tensorrt(monkeypatch, tmp_path):
    """Engines are cached in a folder that exists; static shapes get a CUDA graph; no precision flag is given."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(gpu, "name", lambda: "G sm90")
    monkeypatch.setattr(gpu, "tensorrt_version", lambda: 11)
    name, options = sessions.provider_options("tensorrt", b"graph", ("batch", 8))
    folder = tmp_path / "edp-robot" / "engines" / engines.key("G sm90", 11, b"graph", 8)
    assert name == "TensorrtExecutionProvider" and folder.is_dir()
    assert options["trt_engine_cache_path"] == str(folder) and options["trt_engine_cache_enable"] == "1"
    assert options["trt_cuda_graph_enable"] == "1" and not [k for k in options if "fp16" in k or "int8" in k]
    assert sessions.provider_options("tensorrt", b"graph", None)[1]["trt_cuda_graph_enable"] == "0"


def test_options_of_the_others():
    assert sessions.provider_options("cpu", b"", None) == ("CPUExecutionProvider", {})
    assert sessions.provider_options("cuda", b"", ("batch", 1))[1] == {"device_id": "0", "enable_cuda_graph": "1"}
    assert sessions.provider_options("cuda", b"", None)[1]["enable_cuda_graph"] == "0"


def test_engines_lie_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert engines.cache_folder() == tmp_path / ".cache" / "edp-robot" / "engines"
