import contextlib
import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import remembering

from policy_server.contract import bundle as bundles
from policy_server.contract.bundle import Bundle
from policy_server.contract.errors import BundleError
from policy_server.contract.field import Field
from policy_server.contract.manifest import Manifest


@pytest.fixture
def bundle(tiny, tmp_path):
    return tiny.save(tmp_path / "bundle", extra_files={"calibration.json": b'{"latency_s": 0.02}'})


def edit(bundle, change):
    """Changes manifest.json in place."""
    file = bundle.path / "manifest.json"
    raw = json.loads(file.read_text())
    change(raw)
    file.write_text(json.dumps(raw))
    return bundle.path


def replace_file(bundle, name, data):
    """Replaces a file and its hash, so that only its content can be refused."""
    (bundle.path / name).write_bytes(data)
    return edit(bundle, lambda raw: raw["files"].update({name: hashlib.sha256(data).hexdigest()}))


def test_what_was_saved_comes_back(tiny, bundle):
    loaded = Bundle.load(bundle.path)
    obs, action = tiny.fields()
    manifest = loaded.manifest
    assert (manifest.obs, manifest.action) == (obs, action)
    assert (manifest.obs_dim, manifest.act_dim) == (3, 2)
    assert (manifest.horizon, manifest.latent_dim) == (2, 4)
    assert manifest.action_low.dtype == np.float32
    np.testing.assert_array_equal(manifest.action_high, np.float32([0.9, 0.9]))
    np.testing.assert_array_equal(manifest.action_max_rate, np.float32([5.0, np.inf]))
    for name, array in tiny.golden().items():
        np.testing.assert_array_equal(loaded.golden()[name], array)
    assert loaded.calibration() == {"latency_s": 0.02}
    assert loaded.onnx_path.read_bytes() == tiny.onnx_bytes()
    assert loaded.hash == hashlib.sha256((bundle.path / "manifest.json").read_bytes()).hexdigest()


def test_manifest_is_strict_json_with_null_for_infinity(bundle):
    text = (bundle.path / "manifest.json").read_text()
    assert "Infinity" not in text and "NaN" not in text
    raw = json.loads(text)
    assert raw["obs"]["dim"] == 3
    assert raw["obs"]["fields"][0]["low"] == [None, -1.0]
    assert raw["action"]["fields"][0]["max_rate"] == [5.0, None]


def test_no_rate_limit_is_infinite(tiny, tmp_path):
    action = (Field("x", 0, 2, "m", (-1, -1), (1, 1)),)
    manifest = tiny.save(tmp_path / "b", action=action).manifest
    assert np.isinf(manifest.action_max_rate).all() and manifest.action[0].max_rate is None


def test_save_replaces_a_bundle_and_leaves_nothing_else(tiny, bundle):
    tiny.save(bundle.path, name="second")
    assert Bundle.load(bundle.path).manifest.name == "second"
    assert [path.name for path in bundle.path.parent.iterdir()] == ["bundle"]


def test_refused_save_leaves_the_old_bundle(tiny, bundle):
    wrong = {**tiny.golden(), "action": np.zeros((5, 9, 2), np.float32)}
    message = r"action is float32 \(5, 9, 2\), expected float32 \(n, 2, 2\)"
    with pytest.raises(BundleError, match=message):
        tiny.save(bundle.path, name="second", golden=wrong)
    assert Bundle.load(bundle.path).manifest.name == "tiny"
    assert [path.name for path in bundle.path.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("name", ["policy.onnx", "golden.npz", "calibration.json"])
def test_one_flipped_bit_is_found(bundle, name):
    data = bytearray((bundle.path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle.path / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} is damaged: sha256"):
        Bundle.load(bundle.path)


def test_missing_files_are_named(bundle):
    (bundle.path / "golden.npz").rename(bundle.path / "other.npz")
    with pytest.raises(BundleError, match=r"missing \['golden.npz'\]$"):
        Bundle.load(bundle.path)
    with pytest.raises(BundleError, match=r"does not list \['golden.npz'\]"):
        Bundle.load(edit(bundle, lambda raw: raw["files"].pop("golden.npz")))


def test_no_bundle_there(tmp_path):
    with pytest.raises(BundleError, match=r"no manifest.json"):
        Bundle.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/passwd",
        "a/b",
        "..",
        ".hidden",
        "",
        "manifest.json",
        "a\\b",
        "a\n",
        "x" * 200,
    ],
)
def test_names_that_leave_the_folder_are_refused(tiny, bundle, name):
    with pytest.raises(BundleError, match="file name"):
        Bundle.load(edit(bundle, lambda raw: raw["files"].update({name: "0" * 64})))
    with pytest.raises(BundleError, match="file name"):
        tiny.save(bundle.path.parent / "new", extra_files={name: b""})


def _set(key, value):
    return lambda raw: raw.update({key: value})


def _set_field(vector, index, **values):
    return lambda raw: raw[vector]["fields"][index].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("schema_version", 2), r"missing \['history', 'state_dim'\]"),
        (_set("schema_version", 3), "schema version 3: this code reads 1 and 2"),
        (_set("schema_version", True), "schema version True"),
        (lambda raw: raw.pop("schema_version"), "schema version None"),
        (lambda raw: raw.pop("horizon"), r"missing \['horizon'\]"),
        (_set("surprise", 1), r"unknown \['surprise'\]"),
        (_set("horizon", "2"), "horizon '2'"),
        (_set("horizon", 0), "horizon 0"),
        (_set("n_action_steps", 3), "n_action_steps 3 above horizon 2"),
        (_set("control_period_s", 0), "control_period_s 0"),
        (_set("latent_dim", 7), "golden.npz noise"),
        (_set("horizon", 5), "golden.npz action"),
        (_set("files", []), r"files \[\]"),
        (lambda raw: raw["obs"].update(dim=4), "dim 4"),
        (_set_field("obs", 1, start=1, low=[0, 0], high=[1, 1]), "no gap, no overlap"),
        (_set_field("obs", 1, name="arm"), "names repeat"),
        (_set_field("action", 0, low=[2, 2]), "above high"),
        (_set_field("action", 0, entries=["a", "a"]), "expected 2 different names"),
    ],
)
def test_foreign_manifests_are_refused_with_the_reason(bundle, change, message):
    with pytest.raises(BundleError, match=message):
        Bundle.load(edit(bundle, change))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -1, 2, 1e308, ""])
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), value=JSON)
def test_no_manifest_raises_anything_but_bundle_error(bundle_path, data, value):
    raw = json.loads((bundle_path / "manifest.json").read_text())
    field = raw["action"]["fields"][0]
    parts = [raw, raw["obs"], field, raw["files"], raw["obs"]["fields"]]
    target = data.draw(st.sampled_from(parts))
    keys = range(len(target)) if isinstance(target, list) else sorted(target)
    target[data.draw(st.sampled_from(keys))] = value
    with contextlib.suppress(BundleError):
        Manifest.from_dict(raw).to_dict()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema_version": NaN}', "[" * 100_000, "\xff"])
def test_manifests_that_are_no_json_object_are_refused(bundle, text):
    (bundle.path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(BundleError):
        Bundle.load(bundle.path)


def npz(tmp_path, **arrays):
    np.savez(tmp_path / "x.npz", **arrays)
    return (tmp_path / "x.npz").read_bytes()


def test_golden_arrays_are_checked(tiny, bundle, tmp_path):
    good = tiny.golden()
    nan = {**good, "obs": np.full_like(good["obs"], np.nan)}
    float64 = {**good, "obs": good["obs"].astype(np.float64)}
    empty = {name: array[:0] for name, array in good.items()}
    pickled = {**good, "obs": np.array([{}], dtype=object)}
    for arrays, message in (
        (nan, "obs holds NaN"),
        (float64, "obs is float64"),
        (empty, "n >= 1"),
        (pickled, "unreadable"),
        ({"obs": good["obs"]}, "expected .'action', 'noise', 'obs'."),
    ):
        with pytest.raises(BundleError, match=message):
            Bundle.load(replace_file(bundle, "golden.npz", npz(tmp_path, **arrays)))
    with pytest.raises(BundleError, match="unreadable"):
        Bundle.load(replace_file(bundle, "golden.npz", b"not a zip"))


def test_a_zip_bomb_is_not_unpacked(tiny, bundle, tmp_path):
    bomb = np.zeros((bundles.MAX_GOLDEN_BYTES // 4, 1), np.float32)
    np.savez_compressed(tmp_path / "bomb.npz", obs=bomb)
    with pytest.raises(BundleError, match="unpacks to"):
        Bundle.load(replace_file(bundle, "golden.npz", (tmp_path / "bomb.npz").read_bytes()))


def test_metrics_with_nan_are_not_saved(tiny, tmp_path):
    with pytest.raises(BundleError, match="not plain JSON"):
        tiny.save(tmp_path / "b", metrics={"loss": float("nan")})


def test_a_bundle_takes_more_precisions(tiny, bundle):
    """Graph, hash and parity are added, everything else stays, and the bundle's hash changes."""
    assert bundle.precisions == ("fp32",)
    graphs = {bundles.graph_name("int8"): b"graph"}
    more = bundles.extend(bundle, graphs, {"int8": {"max_abs_error": 0.1}})
    assert more.precisions == ("fp32", "int8") and more.hash != bundle.hash
    assert more.read("policy-int8.onnx") == b"graph"
    assert more.read("policy.onnx") == tiny.onnx_bytes()
    assert more.calibration() == bundle.calibration()
    assert more.manifest.obs == bundle.manifest.obs
    assert more.manifest.parity == {"max_abs_error": 0.0, "int8": {"max_abs_error": 0.1}}


def test_a_bundle_with_memory_says_so_where_an_older_reader_looks_first(tmp_path):
    made = remembering.save_bundle(tmp_path / "b")
    raw = json.loads((made.path / "manifest.json").read_text())
    assert (raw["schema_version"], raw["state_dim"], raw["history"]) == (2, 3, 1)
    assert Manifest.from_dict(raw) == made.manifest
    assert replace(made.manifest, state_dim=0).schema_version == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"state_dim": 0}, "schema version 2 with state_dim 0"),
        ({"schema_version": 1}, r"unknown \['history', 'state_dim'\]"),
        ({"state_dim": -1}, "state_dim -1"),
        ({"state_dim": 1 << 30}, "state_dim 1073741824: expected at most 262144"),
        ({"history": 0}, "history 0"),
        ({"state_dim": 0, "history": 4}, "no state to keep observations in"),
    ],
)
def test_a_memory_out_of_range_is_refused(tmp_path, values, message):
    made = remembering.save_bundle(tmp_path / "b")
    with pytest.raises(BundleError, match=message):
        Manifest.from_dict({**made.manifest.to_dict(), **values})


def test_golden_states_must_be_whole_episodes(tmp_path):
    golden = remembering.golden()
    broken = {**golden, "state": golden["state"].copy()}
    broken["state"][3, 1] += 1
    with pytest.raises(BundleError, match=r"state of row 3 is neither zeros nor the next_state"):
        remembering.save_bundle(tmp_path / "b", golden=broken)
    late = {name: array[2:] for name, array in golden.items()}
    with pytest.raises(BundleError, match="state of row 0"):
        remembering.save_bundle(tmp_path / "b", golden=late)
    stateless = {name: golden[name] for name in ("obs", "noise", "action")}
    with pytest.raises(BundleError, match=r"expected \['action', 'next_state'"):
        remembering.save_bundle(tmp_path / "b", golden=stateless)
