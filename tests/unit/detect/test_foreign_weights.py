"""Files of other projects: read where they are weights, refused by name where they are not, never executed."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from torch import nn

from ml_common import foreign_weights
from ml_common.foreign_weights import NotWeights, read_foreign

ARRAYS = {"conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2), "conv.bias": np.ones(2, np.float32)}


class Block(nn.Module):
    """Something with nested modules, a buffer, a shared tensor and attributes that are no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.sizes = [1, 2]
        self.m0 = nn.Sequential(nn.Linear(4, 2), nn.ReLU())

    def forward(self, batch_NCHW: torch.Tensor) -> torch.Tensor:
        maps = self.bn(self.conv(batch_NCHW)) + self.sizes[0]
        return self.m0(maps.mean(dim=(2, 3)))  # type: ignore[no-any-return]


class Evil:
    """Runs a command when unpickled."""

    def __init__(self, witness: Path) -> None:
        self._witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._witness}",)


def _torch_bytes(value: object, *, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def _tensors(arrays: dict[str, np.ndarray[Any, Any]] = ARRAYS) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _zip(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _script(module: nn.Module, *, traced: bool = False) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that scripts are deprecated; files of them stay around
        made = torch.jit.trace(module, torch.zeros(1, 3, 8, 8)) if traced else torch.jit.script(module)
        torch.jit.save(made, file)
    return file.getvalue()


def _only(data: bytes, name: str = "file") -> foreign_weights.ForeignWeights:
    (found,) = read_foreign(data, name)
    return found


@pytest.mark.parametrize(
    ("data", "format_"),
    [
        (lambda: pickle.dumps(ARRAYS, 4), "deepfacelab"),
        (lambda: _torch_bytes(_tensors()), "torch"),
        (lambda: _torch_bytes(_tensors(), legacy=True), "torch"),
        (lambda: _torch_bytes({"epoch": 7, "state_dict": _tensors()}), "torch"),
        (lambda: _torch_bytes({f"module.{name}": tensor for name, tensor in _tensors().items()}), "torch"),
        (lambda: _torch_bytes({name: nn.Parameter(tensor) for name, tensor in _tensors().items()}), "torch"),
        (lambda: save(ARRAYS), "safetensors"),
    ],
)
def test_each_form_gives_the_arrays(data: Callable[[], bytes], format_: str) -> None:
    found = _only(data(), "net.bin")
    assert (found.file, found.format) == ("net.bin", format_)
    assert found.shapes == {"conv.weight": (2, 3, 2, 2), "conv.bias": (2,)}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found.arrays[name], array)


def test_half_precision_is_read() -> None:
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in _tensors().items()}
    assert _only(_torch_bytes(tensors)).arrays["conv.weight"].tolist() == ARRAYS["conv.weight"].tolist()


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_come_as_torch_itself_reads_them(legacy: bool) -> None:
    whole = torch.arange(60.0).reshape(3, 4, 5)
    data = _torch_bytes(
        {
            "turned": whole.permute(2, 0, 1),
            "part": whole[1:, :, 2],
            "spread": torch.ones(1, 3).expand(4, 3),
            "half": whole.half(),
            "brain": whole.to(torch.bfloat16)[..., 1:],
            "double": whole.double() / 3,
            "count": torch.tensor(7),
            "bytes": torch.arange(5, dtype=torch.uint8),
            "flags": torch.tensor([True, False]),
            "nothing": torch.zeros(0, 4),
            "learnt": nn.Parameter(torch.ones(2), requires_grad=False),
            "epoch": 3,
        },
        legacy=legacy,
    )
    expected = torch.load(io.BytesIO(data), weights_only=True)
    del expected["epoch"]
    found = _only(data).arrays
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        plain = tensor.float() if tensor.dtype is torch.bfloat16 else tensor
        np.testing.assert_array_equal(found[name], plain.detach().numpy(), err_msg=name)
        assert found[name].dtype == plain.detach().numpy().dtype


def test_a_state_dict_of_a_module_is_read() -> None:
    module = Block()
    for legacy in (False, True):
        found = _only(_torch_bytes(module.state_dict(), legacy=legacy)).arrays
        assert list(found) == list(module.state_dict())


def test_a_dictionary_as_python_2_spelled_it_is_read() -> None:
    """An ordered dictionary made by a call with a list of pairs, the names as byte strings."""
    tensor = _tensor().partition(b"ctorch._utils")[2].removesuffix(b"ub.")
    pickled = b"\x80\x02ccollections\nOrderedDict\n(]](U\x01actorch._utils" + tensor + b"eatR."
    data = _zip({"net/data.pkl": pickled, "net/data/0": np.array([3, 4], np.float32).tobytes()})
    assert _only(data).arrays["a"].tolist() == [3, 4]


def test_a_damaged_file_never_raises_anything_else() -> None:
    random = np.random.default_rng(0)
    for data in (_torch_bytes(_tensors()), _torch_bytes(_tensors(), legacy=True), _archive(_tensor()), save(ARRAYS)):
        for _ in range(400):
            broken = bytearray(data)
            for place in random.integers(0, len(data), 3):
                broken[place] = random.integers(256)
            with contextlib.suppress(NotWeights):
                read_foreign(bytes(broken[: random.integers(1, 2 * len(broken))]), "broken")


@pytest.mark.parametrize("traced", [False, True])
def test_torchscript_gives_the_state_dict(traced: bool) -> None:
    module = Block().eval()
    found = _only(_script(module, traced=traced), "net.zip")
    assert found.format == "torchscript"
    expected = module.state_dict()
    assert set(found.arrays) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found.arrays[name], tensor.numpy())


def test_torchscript_views_of_one_storage_are_told_apart() -> None:
    module = nn.Module()
    whole = torch.arange(24.0).reshape(4, 6)
    module.register_buffer("rows", whole[1:3])
    module.register_buffer("turned", whole.T)
    module.register_buffer("nothing", torch.zeros(0, 3))
    found = _only(_script(module)).arrays
    np.testing.assert_array_equal(found["rows"], whole[1:3].numpy())
    np.testing.assert_array_equal(found["turned"], whole.T.numpy())
    assert found["nothing"].shape == (0, 3)


def test_a_zip_of_weight_files_gives_them_all() -> None:
    data = _zip(
        {"pkg/code.py": b"print()", "pkg/data/a.pt": _torch_bytes(_tensors()), "b.npy": pickle.dumps(ARRAYS, 4)}
    )
    found = read_foreign(data, "box.whl")
    assert [(one.file, one.format) for one in found] == [("box.whl/a.pt", "torch"), ("box.whl/b.npy", "deepfacelab")]


@pytest.mark.parametrize("form", ["pickle", "torch", "legacy", "in_a_state_dict", "torchscript", "wheel"])
def test_nothing_is_ever_executed(form: str, tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    evil = Evil(witness)
    if form == "torchscript":
        with zipfile.ZipFile(io.BytesIO(_script(Block()))) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        (name,) = [name for name in members if name.endswith("/data.pkl")]
        data = _zip({**members, name: pickle.dumps(evil, 2)})
    else:
        data = {
            "pickle": lambda: pickle.dumps({"a": evil}, 4),
            "torch": lambda: _torch_bytes(evil),
            "legacy": lambda: _torch_bytes(evil, legacy=True),
            "in_a_state_dict": lambda: _torch_bytes({**_tensors(), "a": evil}),
            "wheel": lambda: _zip({"a.pt": _torch_bytes(evil)}),
        }[form]()
    with pytest.raises(NotWeights) as caught:
        read_foreign(data, "evil.pth")
    if form != "torchscript":  # there, the call is not even looked at
        assert "system" in str(caught.value)
    assert str(caught.value).startswith("evil.pth")
    assert not witness.exists()
    pickle.loads(pickle.dumps(evil))  # the witness works
    assert witness.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
        (b"\xff\xd8\xff\xe0", "a JPEG picture"),
        (b"\x93NUMPY\x01\x00", "NumPy's own format"),
        (b"\n\n<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x1c\x00\x00\x00TFL3", "TensorFlow Lite"),
        (b"hello there", "it is text"),
        (b"\x01\xfe\x77\x88\x99", "begins with 01 fe"),
        (b"\x1f\x8b\x08", "unpack it first"),
        (b"\x80\x04N.", "a NoneType"),
        (b"\x80\x04", "damaged"),
        (b"PK\x03\x04 and no more", "damaged"),
        (_zip({"a.txt": b""}), "not of weight files"),
        (_zip({"a.pt": _zip({"b.pt": b""})}), "not of weight files"),
        (_torch_bytes([1, 2]), "holds a list"),
        (_torch_bytes({"a": 1, "b": "c"}), "no state dict but a, b"),
        (_torch_bytes(nn.Linear(2, 2)), "asks for torch.nn.modules.linear.Linear"),
        (_torch_bytes(_tensors())[:-200], "damaged"),
        (_torch_bytes(_tensors(), legacy=True)[:90], "damaged|ends early"),
        (_torch_bytes(_tensors(), legacy=True)[:-3], "ends early"),
        (_torch_bytes({"a": torch.eye(2).to_sparse()}), "asks for torch._utils._rebuild_sparse_tensor"),
        (save(ARRAYS)[:-5], "cannot be read"),
    ],
)
def test_what_is_not_weights_is_refused_with_what_it_is(data: bytes, message: str) -> None:
    with pytest.raises(NotWeights, match=message) as caught:
        read_foreign(data, "S3FD.npy")
    assert "S3FD.npy" in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_what_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_weights, "MAX_BYTES", 10_000)
    bomb = _zip({"a.pt": bytes(1_000_000)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 10_000
    with pytest.raises(NotWeights, match="unpacks to more"):
        read_foreign(bomb, "bomb.zip")
    with pytest.raises(NotWeights, match="weight files of up to"):
        read_foreign(bytes(10_001), "large.npy")


def _archive(pickled: bytes, members: dict[str, bytes] | None = None) -> bytes:
    return _zip({"net/data.pkl": pickled, "net/code/__torch__.py": b"", "net/version": b"3", **(members or {})})


def _tensor(
    key: bytes = b"0", offset: int = 0, size: int = 2, step: int = 1, storage: bytes = b"FloatStorage"
) -> bytes:
    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    def text(value: bytes) -> bytes:
        return b"X" + len(value).to_bytes(4, "little") + value

    place = b"(" + text(b"storage") + b"ctorch\n" + storage + b"\n" + text(key) + text(b"cpu") + number(2) + b"tQ"
    shape = number(offset) + b"(" + number(size) + b"t(" + number(step) + b"t"
    made = b"ctorch._utils\n_rebuild_tensor_v2\n(" + place + shape + b"\x89NtR"
    return b"\x80\x02c__torch__\nNet\n)\x81}(" + text(b"a") + made + b"ub."


def test_planted_archive_is_read() -> None:
    stored = {"net/data/0": np.array([3, 4], np.float32).tobytes()}
    assert _only(_archive(_tensor(), stored)).arrays["a"].tolist() == [3, 4]


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"\x80\x02", "damaged|ends early"),
        (b"\x80\x02\xff.", "damaged"),
        (b"\x80\x02cos\nsystem\n(S'x'\ntR.", "STRING"),
        (b"\x80\x02ios\nsystem\n.", "INST"),
        (b"\x80\x02(t.", "without tensors"),
        (b"\x80\x02t.", "never opened"),
        (b"\x80\x02h\x05.", "damaged"),
        (b"\x80\x02N(K\x01K\x02u.", "no dictionary"),
        (b"\x80\x02NQ.", "no tensor's bytes"),
        (_tensor(key=b"../0"), "keeps a tensor at"),
        (_tensor(key=b"7"), "damaged"),
        (_tensor(size=3), "beyond its bytes"),
        (_tensor(offset=1), "beyond its bytes"),
        (_tensor(offset=-1), "impossible"),
        (_tensor(size=-1), "impossible"),
        (_tensor(step=-1), "impossible"),
        (_tensor(size=2_000_000_000, step=0), "larger than weights"),
        (_tensor(storage=b"QInt8Storage"), "QInt8Storage"),
    ],
)
def test_a_hostile_archive_is_refused(pickled: bytes, message: str) -> None:
    with pytest.raises(NotWeights, match=message):
        read_foreign(_archive(pickled, {"net/data/0": bytes(8)}), "net.zip")


def test_a_module_inside_itself_ends() -> None:
    loop = b"\x80\x02c__torch__\nNet\n)\x81q\x00}(X\x01\x00\x00\x00ah\x00ub."
    with pytest.raises(NotWeights, match="without end"):
        read_foreign(_archive(loop), "net.zip")
    # Each level holds the one below twice.
    name = b"X\x01\x00\x00\x00"
    wide = b"\x80\x02" + b"c__torch__\nNet\n)\x81q\x00"
    for level in range(50):
        again = b"h" + bytes([level])
        wide += b"c__torch__\nNet\n)\x81}(" + name + b"a" + again + name + b"b" + again + b"ubq" + bytes([level + 1])
    with pytest.raises(NotWeights, match="without end"):
        read_foreign(_archive(wide + b"."), "net.zip")
