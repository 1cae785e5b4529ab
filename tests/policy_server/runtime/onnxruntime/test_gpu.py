import ctypes
from types import SimpleNamespace

import pytest

from policy_server.contract.errors import BackendError
from policy_server.runtime.onnxruntime import engines, gpu, providers


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
    assert len(lacking) == 4
    assert lacking[-1] == "libnvinfer.so.11 or libnvinfer.so.10 (pip install tensorrt)"
    assert len(gpu.missing_libraries("cuda", absent)) == 3
    with pytest.raises(OSError, match=r"none of libnvinfer\.so\.11, libnvinfer\.so\.10 loads"):
        gpu.tensorrt_version(absent)


def test_a_provider_built_with_other_versions_is_told_by_its_loader(tmp_path, monkeypatch):
    """TensorRT 11 is there, and the provider wants 10. Only the loader can tell."""
    for name in ("shared", "tensorrt"):
        (tmp_path / f"libonnxruntime_providers_{name}.so").touch()

    def load(name):
        if "tensorrt" in name.rsplit("/", 1)[1]:
            raise OSError("libnvinfer.so.10: cannot open shared object file:\n  No such file")

    said = "libnvinfer.so.10: cannot open shared object file: No such file"
    assert gpu.complaint(tmp_path, "tensorrt", load) == said
    assert gpu.complaint(tmp_path, "cuda", load) == ""
    libraries = tmp_path / "capi"
    libraries.mkdir()
    monkeypatch.setattr(gpu, "present", lambda: True)
    monkeypatch.setattr(gpu, "missing_libraries", lambda provider: [])
    monkeypatch.setattr(gpu, "complaint", lambda folder, _: said if folder == libraries else "")
    message = r"of this ONNX Runtime 1\.31 does not load: libnvinfer\.so\.10"
    with pytest.raises(BackendError, match=message):
        providers.check_available(runtime_in(tmp_path), "tensorrt")


def test_what_preloading_prints_is_not_seen(tmp_path, monkeypatch, capsys):
    """The first line of a server says that it is ready."""
    monkeypatch.setattr(gpu, "present", lambda: True)
    monkeypatch.setattr(gpu, "missing_libraries", lambda provider: [])
    providers.check_available(runtime_in(tmp_path), "cuda")
    assert capsys.readouterr().out == ""


def runtime_in(folder):
    """Returns an ONNX Runtime with every provider, in `folder`, that prints when it preloads."""
    return SimpleNamespace(
        __file__=str(folder / "__init__.py"),
        __version__="1.31",
        get_available_providers=lambda: list(providers.ORT_NAMES.values()),
        preload_dlls=lambda: print("Failed to load libcudnn.so.9"),
    )


def test_libraries_of_pips_tensorrt_are_loaded_in_order(tmp_path, monkeypatch):
    names = ["libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10"]
    for name in (*reversed(names), "libother.so.1"):
        (tmp_path / name).touch()
    found = SimpleNamespace(submodule_search_locations=[tmp_path])
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda _: found)
    loaded = []
    gpu.preload_tensorrt(lambda path, mode: loaded.append((path.rsplit("/", 1)[1], mode)))
    assert loaded == [(name, ctypes.RTLD_GLOBAL) for name in names]
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda _: None)
    gpu.preload_tensorrt(absent)


def test_an_older_library_will_do():
    class TensorRT:
        def getInferLibVersion(self):
            return 101300

    def load(name):
        return TensorRT() if name == "libnvinfer.so.10" else absent(name)

    assert gpu.tensorrt_version(load) == 101300


def test_an_engine_belongs_to_gpu_tensorrt_graph_and_size():
    name = "NVIDIA Test (80GB) sm90"
    key = engines.key(name, 110000, b"graph", 8)
    assert key == "NVIDIA-Test-80GB-sm90_trt110000_eef93e1d14482804_b8"  # sha256 of b"graph"
    others = [
        engines.key("Other sm90", 110000, b"graph", 8),
        engines.key(name, 110001, b"graph", 8),
        engines.key(name, 110000, b"Graph", 8),
        engines.key(name, 110000, b"graph", None),
    ]
    assert len({key, *others}) == 5


def test_options_of_tensorrt(monkeypatch, tmp_path):
    """Engines are cached in a folder that exists, and static shapes get a CUDA graph."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(gpu, "name", lambda: "G sm90")
    monkeypatch.setattr(gpu, "tensorrt_version", lambda: 11)
    name, options = providers.provider_options("tensorrt", b"graph", ("batch", 8))
    folder = tmp_path / "edp-robot" / "engines" / engines.key("G sm90", 11, b"graph", 8)
    assert name == "TensorrtExecutionProvider" and folder.is_dir()
    assert options["trt_engine_cache_path"] == str(folder)
    assert options["trt_engine_cache_enable"] == options["trt_cuda_graph_enable"] == "1"
    assert providers.provider_options("tensorrt", b"graph", None)[1]["trt_cuda_graph_enable"] == "0"


def test_precision_is_a_flag_until_tensorrt_11(tmp_path):
    def flags(precision, tensorrt):
        options = engines.options(tmp_path, True, precision, tensorrt)
        return {k: v for k, v in options.items() if "fp16" in k or "int8" in k}

    assert [flags(p, 101303) for p in ("fp32", "fp16", "int8")] == [
        {},
        {"trt_fp16_enable": "1"},
        {"trt_int8_enable": "1"},
    ]
    assert [flags(p, 110000) for p in ("fp32", "fp16", "int8")] == [{}, {}, {}]


def test_options_of_the_others():
    assert providers.provider_options("cpu", b"", None) == ("CPUExecutionProvider", {})
    exact = {"device_id": "0", "use_tf32": "0", "enable_cuda_graph": "1"}
    assert providers.provider_options("cuda", b"", ("batch", 1))[1] == exact
    assert providers.provider_options("cuda", b"", None)[1]["enable_cuda_graph"] == "0"


def test_engines_are_kept_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert engines.cache_folder() == tmp_path / ".cache" / "edp-robot" / "engines"
