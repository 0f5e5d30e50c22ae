"""What every object store promises, on a folder and on S3 over HTTP; then what only one of them can get wrong."""

from __future__ import annotations

import base64
import errno
import hashlib
import http.server
import io
import os
import random
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from services.kit.errors import (
    AlreadyExists,
    Corrupt,
    InvalidInput,
    NotFound,
    QuotaOrCapacity,
    Transient,
    UnderstudyError,
    WrongState,
)
from services.kit.storage import FolderStore, ObjectStore, S3Store, check_key, open_store
from services.kit.storage import s3 as s3_module
from services.kit.storage.node_cache import NodeCache
from services.kit.storage.sigv4 import presign
from tests.support.store_spec import StoreSpec, finish, with_bucket

pytest_plugins = ["tests.support.stores"]

BAD_KEYS = [
    "",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/../b",
    "./a",
    "a/.",
    "a b",
    "a\\b",
    "a~",
    "ä",
    "a\n",
    "a\0b",
    "a:b",
    "a%2fb",
]
BAD_KEYS += ["x" * 201, "/".join(["y" * 150] * 7)]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def keys_of(store: ObjectStore, prefix: str = "", **options: Any) -> list[str]:
    """All keys, page after page."""
    keys: list[str] = []
    after = ""
    while True:
        page = store.list(prefix, after=after, **options)
        keys += [info.key for info in page.objects]
        after = page.next_after
        if not after:
            return keys


# -- both adapters: one object -----------------------------------------------------------------------------------------


def test_what_was_put_is_got(store: ObjectStore) -> None:
    before_s = time.time()
    data = bytes(range(256)) * 300
    info = store.put("a/b/c.bin", data, media_type="image/x-test; q=1")
    assert (info.key, info.size_bytes, info.sha256) == ("a/b/c.bin", len(data), digest(data))
    found = store.stat("a/b/c.bin")
    assert (found.key, found.size_bytes, found.sha256) == ("a/b/c.bin", len(data), digest(data))
    assert info.media_type == found.media_type == "image/x-test; q=1"
    assert before_s - 5 < found.modified_s < time.time() + 5
    assert store.get("a/b/c.bin") == data


@pytest.mark.parametrize("make", [lambda data, path: io.BytesIO(data), lambda data, path: path], ids=["stream", "path"])
@pytest.mark.parametrize("size_bytes", [0, 1, 3_000_000])
def test_streams_and_files_are_stored_like_bytes(
    store: ObjectStore, tmp_path: Path, make: Callable[[bytes, Path], Any], size_bytes: int
) -> None:
    data = random.Random(7).randbytes(size_bytes)
    path = tmp_path / "in.bin"
    path.write_bytes(data)
    assert store.put("x", make(data, path), sha256=digest(data)).sha256 == digest(data)
    assert store.get("x") == data


def test_a_stream_is_read_from_where_it_stands(store: ObjectStore) -> None:
    stream = io.BytesIO(b"header:rest")
    stream.seek(7)
    store.put("x", stream)
    assert store.get("x") == b"rest"


def test_an_object_is_replaced_with_digest_and_type(store: ObjectStore) -> None:
    store.put("x", b"first", media_type="text/plain")
    store.put("x", b"the second", media_type="text/html")
    store.put("x", b"the second", media_type="text/css")
    info = store.stat("x")
    assert (info.sha256, info.media_type, info.size_bytes) == (digest(b"the second"), "text/css", 10)
    assert store.get("x") == b"the second"


def test_put_if_absent_keeps_the_first(store: ObjectStore, tmp_path: Path) -> None:
    store.put("k", b"first", if_absent=True)
    for data in (b"second", b"first", io.BytesIO(b"third")):
        with pytest.raises(AlreadyExists):
            store.put("k", data, if_absent=True)
    assert store.get("k") == b"first"
    store.delete("k")
    store.put("k", b"later", if_absent=True)
    assert store.get("k") == b"later"


def test_wrong_announced_digest_stores_nothing(store: ObjectStore) -> None:
    for data in (b"bytes", io.BytesIO(b"bytes")):
        with pytest.raises(Corrupt):
            store.put("k", data, sha256=digest(b"other"))
    with pytest.raises(InvalidInput):
        store.put("k", b"bytes", sha256="abc")
    with pytest.raises(NotFound):
        store.stat("k")
    assert keys_of(store) == []


def test_a_stream_that_fails_leaves_nothing(store: ObjectStore) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise RuntimeError("camera unplugged")
            return super().read(100)

    with pytest.raises(RuntimeError, match="unplugged"):
        store.put("k", Failing(b"x" * 1000))
    with pytest.raises(InvalidInput):
        store.put("k", Path("/no/such/file"))
    assert keys_of(store) == []


def test_missing_objects_are_not_found(store: ObjectStore) -> None:
    store.put("there/x", b"1")
    for key in ("nothing", "there", "there/y", "no/where"):
        with pytest.raises(NotFound):
            store.get(key)
        with pytest.raises(NotFound):
            store.read(key, 0, 1)
        with pytest.raises(NotFound):
            store.read(key, 0, 0)
        with pytest.raises(NotFound):
            store.stat(key)
        with pytest.raises(NotFound), store.open(key):
            pass
        with pytest.raises(NotFound), store.local_path(key):
            pass


def test_delete_is_idempotent_and_touches_no_other(store: ObjectStore) -> None:
    store.put("d/a", b"1")
    store.put("d/b", b"2")
    for _ in range(2):
        store.delete("d/a")
    store.delete("d")
    store.delete("never/was")
    with pytest.raises(NotFound):
        store.get("d/a")
    assert keys_of(store) == ["d/b"]
    store.delete("d/b")
    assert store.list("", delimiter="/").prefixes == ()


def test_ranges(store: ObjectStore) -> None:
    data = bytes(range(200))
    store.put("r", data)
    for start, length in [(0, 10), (5, 1), (190, 10), (190, 100), (0, 10**12), (199, 1), (0, 0), (50, 0)]:
        assert store.read("r", start, length) == data[start : start + length], (start, length)
    assert store.read("r", 200, 5) == b""
    assert store.read("r", 10_000, 5) == b""
    store.put("empty", b"")
    assert store.read("empty", 0, 5) == b""
    for start, length in [(-1, 5), (0, -1)]:
        with pytest.raises(InvalidInput):
            store.read("r", start, length)


def test_open_reads_in_pieces(store: ObjectStore) -> None:
    data = random.Random(1).randbytes(2_500_000)
    store.put("o", data)
    with store.open("o") as stream:
        pieces = list(iter(lambda: stream.read(70_000), b""))
    assert b"".join(pieces) == data
    with store.open("o") as stream:
        assert stream.read() == data
    with store.open("o") as stream:
        assert stream.read(3) == data[:3]
    store.put("empty", b"")
    with store.open("empty") as stream:
        assert stream.read() == b""


def test_errors_of_the_reader_pass_through_open(store: ObjectStore) -> None:
    store.put("o", b"data")
    with pytest.raises(FileNotFoundError), store.open("o"):
        raise FileNotFoundError("the reader's own")
    with pytest.raises(FileNotFoundError), store.local_path("o"):
        raise FileNotFoundError("the reader's own")


def test_local_path_is_a_file_with_the_bytes(store: ObjectStore) -> None:
    data = random.Random(2).randbytes(100_000)
    store.put("clips/v.mp4", data)
    for _ in range(2):
        with store.local_path("clips/v.mp4") as path:
            assert path.read_bytes() == data
    store.put("clips/v.mp4", b"new")
    with store.local_path("clips/v.mp4") as path:
        assert path.read_bytes() == b"new"


def test_put_many(store: ObjectStore) -> None:
    items = [(f"f{i % 3}/{i:04d}.jpg", f"face {i}".encode() * (i + 1), "image/jpeg") for i in range(70)]
    infos = store.put_many(iter(items))
    assert [(info.key, info.sha256) for info in infos] == [(key, digest(data)) for key, data, _ in items]
    items[0] = (items[0][0], b"changed", "image/jpeg")
    items[1] = (items[1][0], items[1][1], "image/png")
    infos = store.put_many(items)  # a chunk that runs twice, two objects being different
    assert [(info.key, info.sha256, info.media_type) for info in infos] == [(k, digest(d), m) for k, d, m in items]
    for key, data, media_type in items:
        assert store.get(key) == data
        info = store.stat(key)
        assert (info.sha256, info.media_type, info.size_bytes) == (digest(data), media_type, len(data))
    assert sorted(keys_of(store)) == sorted(key for key, _, _ in items)
    assert store.put_many([]) == []
    with pytest.raises(InvalidInput):
        store.put_many([("good", b"1", "a/b"), ("bad key", b"2", "a/b")])


def test_put_many_again_writes_nothing_and_heals(folder: FolderStore, tmp_path: Path) -> None:
    items = [(f"f/{number}", b"data %d" % number, "a/b") for number in range(5)]
    folder.put_many(items)
    (tmp_path / "store/f/3").write_bytes(b"dada 3")
    (tmp_path / "store/f/4").write_bytes(b"")
    inodes = {key: (tmp_path / "store" / key).stat().st_ino for key, _, _ in items}
    folder.put_many(items)
    changed = {key for key, inode in inodes.items() if (tmp_path / "store" / key).stat().st_ino != inode}
    assert changed == {"f/3", "f/4"}
    assert [folder.get(key) for key, _, _ in items] == [data for _, data, _ in items]


def test_bad_keys_are_refused_everywhere(store: ObjectStore) -> None:
    calls: list[Callable[[str], Any]] = [
        check_key,
        lambda key: store.put(key, b""),
        lambda key: store.put_many([(key, b"", "a/b")]),
        store.get,
        lambda key: store.read(key, 0, 1),
        lambda key: store.open(key).__enter__(),
        lambda key: store.local_path(key).__enter__(),
        store.stat,
        store.delete,
        lambda key: store.sign(key, "GET"),
        store.uri,
    ]
    for key in BAD_KEYS:
        for call in calls:
            with pytest.raises(InvalidInput):
                call(key)


def test_bad_arguments_are_refused(store: ObjectStore) -> None:
    for media_type in ("", "a\nb", "ü", "x" * 201, " a"):
        with pytest.raises(InvalidInput):
            store.put("k", b"", media_type=media_type)
    for prefix in ("/", "a//", "../", "a/../b", "a b", "./a"):
        with pytest.raises(InvalidInput):
            store.list(prefix)
    for options in ({"limit": 0}, {"delimiter": ","}, {"after": "a\n"}):
        with pytest.raises(InvalidInput):
            store.list("", **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        store.sign("k", "DELETE")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        store.sign("k", "GET", expires_s=8 * 24 * 3600)


def test_uris_go_there_and_back(store: ObjectStore, store_spec: StoreSpec) -> None:
    for key in ("a", "p/clips/a+b=c@d_e-f.mp4"):
        assert store.key_of(store.uri(key)) == key
    base = store.uri("a").removesuffix("a")
    parent = base.rstrip("/").rpartition("/")[0]
    foreign = (
        base,
        f"{base}../x",
        f"{base}a/../../x",
        f"{parent}/x",
        f"{base}a?b",
        "file:///etc/passwd",
        "s3://other/a",
        "a",
    )
    for uri in foreign:
        with pytest.raises(InvalidInput):
            store.key_of(uri)
    assert store_spec.open().uri("a") == store.uri("a")


# -- both adapters: listing --------------------------------------------------------------------------------------------

TREE = sorted(
    ["a-b", "a.b/x", "a/1", "a/b/1", "a/b/2", "a/b-c", "a/b0", "a0/x", "b", "b.json", "c/d/e/f", "A/Z", "_x", "@/1"]
)


@pytest.fixture
def tree(store: ObjectStore) -> ObjectStore:
    store.put_many([(key, key.encode(), "text/plain") for key in TREE])
    return store


def test_keys_come_in_byte_order_whatever_the_page(tree: ObjectStore) -> None:
    for prefix in ("", "a", "a/", "a/b", "a/b/", "c/d", "nothing", "nothing/here/"):
        for limit in (1, 2, 5, 1000):
            assert keys_of(tree, prefix, limit=limit) == [key for key in TREE if key.startswith(prefix)], prefix


@pytest.mark.parametrize("limit", [1, 3, 1000])
def test_folders_are_folded(tree: ObjectStore, limit: int) -> None:
    for prefix in ("", "a", "a/", "a/b", "c/"):
        folded = set()
        for key in TREE:
            if key.startswith(prefix):
                head, slash, _ = key[len(prefix) :].partition("/")
                folded.add(prefix + head + slash)
        found: list[str] = []
        after = ""
        while True:
            page = tree.list(prefix, after=after, limit=limit, delimiter="/")
            names = sorted([info.key for info in page.objects] + list(page.prefixes))
            assert 0 < len(names) <= limit
            found += names
            after = page.next_after
            if not after:
                break
            assert after == names[-1]
        assert found == sorted(folded), prefix


def test_listing_tells_size_and_time(tree: ObjectStore) -> None:
    (info,) = tree.list("a/b/1").objects
    assert info.size_bytes == len("a/b/1")
    assert info.sha256 is None
    assert abs(info.modified_s - time.time()) < 60


def test_any_key_is_a_cursor(tree: ObjectStore) -> None:
    for after in ("a", "a/", "a/b", "a/b/1", "a/b/zzz", "a/b/~", "zz", "0"):
        assert keys_of(tree, "", limit=1000) == TREE
        assert [info.key for info in tree.list("", after=after).objects] == [key for key in TREE if key > after]


def test_listing_while_others_write_misses_nothing_old(store: ObjectStore) -> None:
    old = {f"faces/{i:05d}.jpg" for i in range(0, 400, 2)}
    store.put_many([(key, b"x", "image/jpeg") for key in sorted(old)])
    stop = threading.Event()

    def write() -> None:
        generator = random.Random(3)
        while not stop.is_set():
            number = generator.randrange(0, 400) | 1
            store.put(f"faces/{number:05d}.jpg", b"new")
            store.delete(f"faces/{(number * 7) % 400 | 1:05d}.jpg")

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write) for _ in range(2)]
        try:
            for _ in range(3):
                keys = keys_of(store, "faces/", limit=37)
                assert keys == sorted(set(keys))
                assert old <= set(keys)
        finally:
            stop.set()
        for writer in writers:
            writer.result()


def test_many_keys_page_by_page(store: ObjectStore, store_spec: StoreSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(store, FolderStore):
        count = 10_000
        folder = Path(store_spec.root, "many")
        folder.mkdir()
        for number in range(count):  # files of some other program will do here: they are listed like ours
            (folder / f"{number:06d}").touch()
    else:
        count = 250
        monkeypatch.setattr(s3_module, "LIST_REQUEST_KEYS", 100)  # several requests for a page, as with 10,000 keys
        store.put_many((f"many/{number:06d}", b"", "a/b") for number in range(count))
    assert keys_of(store, "many/", limit=count // 10) == [f"many/{number:06d}" for number in range(count)]
    page = store.list("many/", limit=count)
    assert (len(page.objects), page.next_after) == (count, "")
    page = store.list("many/", limit=count - 1)
    assert (len(page.objects), page.next_after) == (count - 1, f"many/{count - 2:06d}")
    assert len(store.list("", limit=1, delimiter="/").prefixes) == 1


# -- both adapters: concurrency and memory -----------------------------------------------------------------------------


def test_of_many_threads_one_creates(store: ObjectStore) -> None:
    barrier = threading.Barrier(8)

    def race(round_number: int, writer: int) -> int:
        barrier.wait()
        try:
            store.put(f"race/{round_number}", b"writer %d" % writer * 100, if_absent=True)
        except AlreadyExists:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        for number in range(10):
            wins = list(pool.map(race, [number] * 8, range(8)))
            assert sum(wins) == 1
            assert store.get(f"race/{number}") == b"writer %d" % wins.index(1) * 100


def test_of_many_processes_one_creates(store: ObjectStore, store_spec: StoreSpec) -> None:
    code = """
import time
from services.kit.errors import AlreadyExists
while time.time() < float(sys.argv[2]): pass
for number in range(30):
    try:
        store.put(f"race/{number}", sys.argv[3].encode() * 1000, if_absent=True)
        print(number)
    except AlreadyExists:
        pass
"""
    start_s = str(time.time() + 1.5)
    outputs = finish([store_spec.start(code, start_s, str(writer)) for writer in range(3)])
    winners = Counter(int(number) for output in outputs for number in output.split())
    assert winners == dict.fromkeys(range(30), 1)
    for number in range(30):
        winner = next(writer for writer, output in enumerate(outputs) if str(number) in output.split())
        assert store.get(f"race/{number}") == str(winner).encode() * 1000


def test_readers_of_a_replaced_object_see_old_or_new(store: ObjectStore) -> None:
    versions = [bytes([number]) * (1000 + number) for number in range(20)]
    store.put("k", versions[0])
    done = threading.Event()

    def write(seed: int) -> None:
        for version in random.Random(seed).choices(versions, k=25):
            store.put("k", version)

    def read() -> int:
        count = 0
        while not done.is_set():
            assert store.get("k") in versions
            info = store.stat("k")
            assert info.sha256 == digest(versions[info.size_bytes - 1000])
            with store.open("k") as stream:
                assert stream.read() in versions
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        writers = [pool.submit(write, seed) for seed in (1, 2)]
        for writer in writers:
            writer.result()
        done.set()
        assert all(reader.result() > 0 for reader in readers)


def test_64_mib_stream_through_in_bounded_memory(store: ObjectStore, store_spec: StoreSpec) -> None:
    code = """
import hashlib, resource
from pathlib import Path
class Source:
    left = 64
    def read(self, size):
        assert size > 0
        if not self.left: return b""
        self.left -= 1
        return bytes([self.left]) * (1 << 20)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
store.put("small", b"x" * (1 << 20), if_absent=True); store.get("small")
before = peak()
info = store.put("big", Source())
digest = hashlib.sha256()
with store.open("big") as stream:
    while piece := stream.read(1 << 20): digest.update(piece)
assert digest.hexdigest() == info.sha256
with store.local_path("big") as path:
    assert path.stat().st_size == 64 << 20
    with path.open("rb") as file: assert hashlib.file_digest(file, "sha256").hexdigest() == info.sha256
    store.put("again", path, if_absent=True)
print(peak() - before)
"""
    (output,) = finish([store_spec.start(code)])
    assert int(output) < 24
    assert store.stat("again").sha256 == store.stat("big").sha256


# -- the folder adapter ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def files_of(root: Path) -> list[str]:
    """All files below ``root`` but the lock files."""
    return sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and "~lock" not in path.parts
    )


def test_objects_are_plain_files(folder: FolderStore, tmp_path: Path) -> None:
    folder.put("clips/a.txt", b"hello")
    assert (tmp_path / "store/clips/a.txt").read_bytes() == b"hello"
    assert files_of(tmp_path / "store") == ["clips/.a.txt~", "clips/a.txt"]
    with folder.local_path("clips/a.txt") as path:
        assert path == tmp_path / "store/clips/a.txt"
    folder.delete("clips/a.txt")
    assert files_of(tmp_path / "store") == []
    assert not (tmp_path / "store/clips").exists()


def test_damage_on_disk_is_noticed(folder: FolderStore, tmp_path: Path) -> None:
    data = random.Random(5).randbytes(3_000_000)
    path = tmp_path / "store/x"
    folder.put("x", data)
    changed = bytearray(data)
    changed[1_500_000] ^= 1
    path.write_bytes(changed)
    with pytest.raises(Corrupt) as caught:
        folder.get("x")
    assert caught.value.metadata["uri"] == folder.uri("x")
    with pytest.raises(Corrupt), folder.open("x") as stream:
        while stream.read(100_000):
            pass
    with pytest.raises(Corrupt), folder.open("x") as stream:
        stream.read(len(data))  # exactly the size: no read at the end follows
    path.write_bytes(data[:-1])
    for call in (folder.get, folder.stat, lambda key: folder.local_path(key).__enter__()):
        with pytest.raises(Corrupt):
            call("x")
    folder.put("x", data)  # storing it anew heals
    assert folder.get("x") == data


def test_damaged_side_file_is_noticed_and_healed(folder: FolderStore, tmp_path: Path) -> None:
    folder.put("x", b"data")
    for text in ("", "nonsense\n", f"{'0' * 64} 4 y a/b\n"):
        (tmp_path / "store/.x~").write_text(text)
        with pytest.raises(Corrupt):
            folder.get("x")
    folder.put("x", b"data")
    assert folder.get("x") == b"data"


def test_files_of_other_programs_are_objects_without_a_digest(folder: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "store/in").mkdir()
    (tmp_path / "store/in/foreign.mov").write_bytes(b"film")
    (tmp_path / "store/in/not a key").write_bytes(b"")
    assert folder.get("in/foreign.mov") == b"film"
    assert folder.stat("in/foreign.mov").sha256 is None
    assert keys_of(folder) == ["in/foreign.mov"]
    with pytest.raises(AlreadyExists):
        folder.put("in/foreign.mov", b"x", if_absent=True)
    folder.put("in/foreign.mov", b"ours")
    assert folder.stat("in/foreign.mov").sha256 == digest(b"ours")


def test_links_lead_nowhere(folder: FolderStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (tmp_path / "store/link").symlink_to(outside)
    (tmp_path / "store/file").symlink_to(outside / "secret")
    for key in ("link/secret", "link/new", "file"):
        for call in (folder.get, folder.stat, lambda key: folder.put(key, b"x")):
            with pytest.raises((InvalidInput, NotFound)):
                call(key)
    assert keys_of(folder) == []
    assert folder.list("", delimiter="/").prefixes == ()
    with pytest.raises(InvalidInput):
        folder.list("link/")
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"


def test_a_root_behind_a_link_is_fine(tmp_path: Path) -> None:
    (tmp_path / "disk 1").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk 1")
    folder = FolderStore(tmp_path / "store")
    folder.put("a/b", b"1")
    assert folder.key_of(folder.uri("a/b")) == "a/b"
    assert FolderStore(tmp_path / "disk 1").get("a/b") == b"1"


def test_a_key_is_not_both_object_and_folder(folder: FolderStore, tmp_path: Path) -> None:
    folder.put("a", b"1")
    folder.put("f/x", b"1")
    for key in ("a/b", "a/b/c", "f"):
        with pytest.raises(InvalidInput):
            folder.put(key, b"2")
    assert keys_of(folder) == ["a", "f/x"]
    assert files_of(tmp_path / "store") == [".a~", "a", "f/.x~", "f/x"]


@pytest.mark.parametrize("call", ["write", "fsync", "link"])
@pytest.mark.parametrize("after_calls", [0, 1, 2])
def test_a_full_disk_leaves_nothing(
    folder: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, after_calls: int
) -> None:
    folder.put("old", b"old bytes")
    real = getattr(os, call)
    left = after_calls

    def full(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        if left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        left -= 1
        return real(*args, **kwargs)

    puts: list[Callable[[str], Any]] = [
        lambda key: folder.put(f"d/{key}", io.BytesIO(b"x" * 3_000_000)),
        lambda key: folder.put(f"d/{key}", b"y", if_absent=True),
        lambda key: folder.put("old", key.encode()),
    ]
    for put in puts:
        left = after_calls
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            for number in range(after_calls + 1):
                if not left:
                    with pytest.raises(QuotaOrCapacity):
                        put(f"new{number}")
                    break
                with suppress(QuotaOrCapacity):
                    put(f"new{number}")
            assert left == 0
        assert not [name for name in files_of(tmp_path / "store") if name.startswith("~tmp")]
        keys = keys_of(folder)
        assert "old" in keys
        for key in keys:
            assert folder.get(key) in (b"old bytes", b"new0", b"new1", b"y", b"x" * 3_000_000), key
            assert folder.stat(key).sha256 == digest(folder.get(key))
            if key != "old":
                folder.delete(key)


def test_put_many_on_a_full_disk(folder: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = os.write, 100

    def full(descriptor: int, data: Any) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(QuotaOrCapacity):
        folder.put_many((f"f/{number:03d}", b"data", "a/b") for number in range(200))
    monkeypatch.undo()
    keys = keys_of(folder)
    assert keys == [f"f/{number:03d}" for number in range(64)]  # the first batch, whole
    assert all(folder.get(key) == b"data" for key in keys)
    assert not list((tmp_path / "store/~tmp").iterdir())


WRITERS = """
import os, random, signal, time
def write(seed):
    generator, number = random.Random(seed), 0
    while True:
        number += 1
        data = generator.randbytes(generator.choice([10, 5000, 300000]))
        if number % 3 == 0: store.put(f"new/{seed}-{number}", data, if_absent=True)
        elif number % 3 == 1: store.put(f"same/{number % 4}", data)
        else: store.put_many([(f"many/{seed}-{number}-{i}", data, "image/jpeg") for i in range(5)])
        if number % 5 == 0: store.delete(f"new/{seed}-{number - 5}")
for round_number in range(12):
    children = []
    for seed in (3 * round_number, 3 * round_number + 1, 3 * round_number + 2):
        child = os.fork()
        if not child: write(seed)
        children.append(child)
    time.sleep(random.uniform(0.02, 0.2))
    for child in children: os.kill(child, signal.SIGKILL)
    print(*(os.waitpid(child, 0)[1] for child in children))
"""


def test_killed_writers_leave_whole_objects(tmp_path: Path) -> None:
    spec = StoreSpec("folder", root=str(tmp_path / "store"))
    (output,) = finish([spec.start(WRITERS)])
    assert set(output.split()) == {str(int(signal.SIGKILL))}
    store = spec.open()
    keys = keys_of(store)
    assert {key.partition("/")[0] for key in keys} == {"new", "same", "many"}
    for key in keys:
        info = store.stat(key)
        assert info.sha256 == digest(store.get(key))
    for number in range(4):  # what the dead left behind stands in nobody's way
        store.put(f"same/{number}", b"after")
        assert store.stat(f"same/{number}").sha256 == digest(b"after")


DYING = """
import os
from pathlib import Path
from services.kit.storage import FolderStore
action, base = sys.argv[2:]
def act(store):
    if action == "new": store.put("d/k", b"new bytes", if_absent=True)
    elif action == "replace": store.put("d/k", b"new bytes")
    else: store.delete("d/k")
def dying(real, died_at):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == died_at: os.kill(os.getpid(), 9)
        return real(*args, **kwargs)
    return call
died_at, status = 0, 9
while status == 9:
    died_at += 1
    store = FolderStore(Path(base, str(died_at)))
    if action != "new": store.put("d/k", b"old")
    child = os.fork()
    if not child:
        calls = 0
        for name in ("open", "write", "fsync", "link", "rename", "unlink", "mkdir", "rmdir"):
            setattr(os, name, dying(getattr(os, name), died_at))
        act(store)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
print(died_at, status)
"""


@pytest.mark.parametrize("action", ["new", "replace", "delete"])
def test_killed_at_every_system_call(tmp_path: Path, action: str) -> None:
    spec = StoreSpec("folder", root=str(tmp_path / "unused"))
    (output,) = finish([spec.start(DYING, action, str(tmp_path / "stores"))])
    count, status = map(int, output.split())
    assert (count > 4, status) == (True, 0)
    outcomes = []
    for died_at in range(1, count + 1):
        store = FolderStore(tmp_path / "stores" / str(died_at))
        keys = keys_of(store)
        assert keys in ([], ["d/k"])
        outcomes.append(store.get("d/k") if keys else b"")
        if keys:
            assert store.stat("d/k").sha256 == digest(outcomes[-1])
        else:
            store.put("d/k", b"next", if_absent=True)
        store.put("d/k", b"next")  # what the dead left behind stands in nobody's way
        assert store.get("d/k") == b"next"
    before, after = {"new": (b"", b"new bytes"), "replace": (b"old", b"new bytes"), "delete": (b"old", b"")}[action]
    assert set(outcomes) == {before, after}
    turned = outcomes.index(after)
    assert outcomes[turned:] == [after] * len(outcomes[turned:])


def test_forgotten_temporary_files_go_after_a_day(folder: FolderStore, tmp_path: Path) -> None:
    temporary = tmp_path / "store/~tmp"
    (temporary / "old").write_bytes(b"x")
    (temporary / "young").write_bytes(b"x")
    os.utime(temporary / "old", (time.time() - 90_000,) * 2)
    FolderStore(tmp_path / "store")
    assert [path.name for path in temporary.iterdir()] == ["young"]


def test_deleting_and_creating_in_the_same_folders(folder: FolderStore) -> None:
    def work(worker: int) -> None:
        for number in range(60):
            key = f"a/b{number % 2}/c/{worker}"
            folder.put(key, b"%d" % number)
            assert folder.get(key) == b"%d" % number
            folder.delete(key)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert keys_of(folder) == []


def test_a_folder_signs_for_reading_only(folder: FolderStore) -> None:
    folder.put("a/b", b"1")
    signed = folder.sign("a/b", "GET")
    assert urllib.request.urlopen(signed.url).read() == b"1"
    with pytest.raises(WrongState):
        folder.sign("a/b", "PUT")


# -- the S3 adapter ----------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(request: pytest.FixtureRequest, s3_server: str, tmp_path: Path) -> Iterator[S3Store]:
    spec = StoreSpec(
        "s3",
        endpoint=s3_server,
        bucket="understudy-tests",
        access_key="test",
        secret_key="test-secret",
        prefix=request.node.name.partition("[")[0],
        cache_dir=str(tmp_path / "cache"),
    )
    opened = with_bucket(spec).open()
    assert isinstance(opened, S3Store)
    yield opened


def test_signature_is_that_of_the_documentation() -> None:
    url = presign(
        method="GET",
        origin="https://examplebucket.s3.amazonaws.com",
        path="/test.txt",
        query={},
        headers={},
        access_key="AKIAIOSFODNN7EXAMPLE",
        secret_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        region="us-east-1",
        expires_s=86400,
        now=datetime(2013, 5, 24, tzinfo=UTC),
    )
    assert url.endswith("&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")


def test_signature_agrees_with_minio_where_minio_can_sign() -> None:
    from datetime import timedelta

    from minio import Minio

    now = datetime(2025, 6, 1, 12, 30, 5, tzinfo=UTC)
    client = Minio("localhost:9000", "key", "secret", region="eu-west-1", secure=False)
    query = {"partNumber": "3", "uploadId": "a b/c+d=~"}
    theirs = client.get_presigned_url(
        "PUT", "bucket", "p/a+b=c@d.x", timedelta(seconds=900), request_date=now, extra_query_params=query
    )
    ours = presign(
        method="PUT",
        origin="http://localhost:9000",
        path="/bucket/p/a+b=c@d.x",
        query=query,
        headers={},
        access_key="key",
        secret_key="secret",
        region="eu-west-1",
        expires_s=900,
        now=now,
    )
    assert ours.rpartition("=")[2] == theirs.rpartition("=")[2]


def test_signed_headers_agree_with_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    """An independent implementation that the tests have anyway; minio cannot sign headers, and moto checks nothing."""
    from botocore import auth, awsrequest, credentials

    now = datetime(2025, 6, 1, 12, 30, 5, tzinfo=UTC)
    monkeypatch.setattr(auth, "get_current_datetime", lambda: now.replace(tzinfo=None))
    headers = {
        "Content-Type": "image/x; q=1",
        "If-None-Match": "*",
        "x-amz-meta-sha256": "ab",
        "Content-MD5": "a+b/c==",
    }
    request = awsrequest.AWSRequest(
        "PUT",
        "http://localhost:9000/bucket/p/a%2Bb%3Dc%40d.x",
        headers=headers,
        params={"partNumber": "3", "uploadId": "a b/c+d=~"},
    )
    auth.S3SigV4QueryAuth(credentials.Credentials("key", "secret"), "s3", "eu-west-1", expires=900).add_auth(request)
    ours = presign(
        method="PUT",
        origin="http://localhost:9000",
        path="/bucket/p/a+b=c@d.x",
        query={"partNumber": "3", "uploadId": "a b/c+d=~"},
        headers=headers,
        access_key="key",
        secret_key="secret",
        region="eu-west-1",
        expires_s=900,
        now=now,
    )
    assert ours.rpartition("=")[2] == request.url.rpartition("=")[2]


def test_signed_urls_serve_tools_without_credentials(bucket: S3Store) -> None:
    http = urllib3.PoolManager()
    data = b"from a tool"
    signed = bucket.sign("up/a+b.bin", "PUT", sha256=digest(data))
    assert signed.method == "PUT"
    assert signed.headers == {"If-None-Match": "*", "x-amz-meta-sha256": digest(data)}
    assert http.request("PUT", signed.url, headers=signed.headers, body=data).status == 200
    assert http.request("PUT", signed.url, headers=signed.headers, body=b"again").status == 412
    assert bucket.get("up/a+b.bin") == data
    assert bucket.stat("up/a+b.bin").sha256 == digest(data)
    signed = bucket.sign("up/a+b.bin", "GET")
    assert http.request("GET", signed.url, headers=signed.headers).data == data
    # What a tool sent wrongly is found when it is read.
    signed = bucket.sign("up/wrong", "PUT", sha256=digest(data))
    assert http.request("PUT", signed.url, headers=signed.headers, body=b"other bytes").status == 200
    with pytest.raises(Corrupt):
        bucket.get("up/wrong")
    with pytest.raises(Corrupt), bucket.local_path("up/wrong"):
        pass


def test_objects_of_other_programs_have_no_digest(bucket: S3Store) -> None:
    signed = bucket.sign("foreign", "PUT")
    assert urllib3.request("PUT", signed.url, headers=signed.headers, body=b"x").status == 200
    assert bucket.stat("foreign").sha256 is None
    assert bucket.get("foreign") == b"x"
    with bucket.local_path("foreign") as path:
        assert path.read_bytes() == b"x"


@pytest.mark.parametrize("if_absent", [False, True])
def test_large_objects_go_in_parts(
    bucket: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, if_absent: bool
) -> None:
    monkeypatch.setattr(s3_module, "SINGLE_PUT_BYTES", 1 << 20)
    monkeypatch.setattr(s3_module, "SINGLE_CONDITIONAL_PUT_BYTES", 1 << 20)
    monkeypatch.setattr(s3_module, "PART_BYTES", 5 << 20)
    data = random.Random(4).randbytes(12_000_001)
    key = f"large-{if_absent}"
    bucket.put(key, io.BytesIO(data), media_type="video/mp4", if_absent=if_absent)
    info = bucket.stat(key)
    assert (info.sha256, info.media_type, info.size_bytes) == (digest(data), "video/mp4", len(data))
    assert bucket.get(key) == data
    if if_absent:
        monkeypatch.setattr(bucket, "stat", lambda key: (_ for _ in ()).throw(NotFound("hidden")))
        with pytest.raises(AlreadyExists):
            bucket.put(key, io.BytesIO(data[:-1]), if_absent=True)
        monkeypatch.undo()
        assert bucket.get(key) == data


class _Proxy:
    """An HTTP server between the store and moto that can misbehave as told."""

    def __init__(self, target: str) -> None:
        proxy = self
        self.plan: Callable[[str, str, int], str] = lambda method, path, count: "pass"
        self.count = 0
        upstream = urllib3.PoolManager()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy.count += 1
                action = proxy.plan(self.command, self.path, proxy.count)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if action == "drop":
                    self.connection.close()
                    self.close_connection = True
                    return
                if action.isdigit():
                    answer, status, headers = b"<html>busy</html>", int(action), {"Content-Type": "text/html"}
                else:
                    dropped = {"if-none-match"} if action == "forget" else set()
                    sent = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
                    response = upstream.request(self.command, target + self.path, headers=sent, body=body)
                    answer, status, headers = response.data, response.status, dict(response.headers)
                if action == "lose the answer":
                    self.connection.close()
                    self.close_connection = True
                    return
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                        self.send_header(name, value)
                length = headers.get("Content-Length") if self.command == "HEAD" else str(len(answer))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                if action == "half":
                    self.wfile.write(answer[: len(answer) // 2])
                    self.connection.close()
                    self.close_connection = True
                elif action == "flip":
                    self.wfile.write(bytes([answer[0] ^ 1]) + answer[1:])
                else:
                    self.wfile.write(answer)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any

            def log_message(self, *args: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # connections cut on purpose

        self.server = Server(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()


@pytest.fixture
def proxied(
    bucket: S3Store, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[tuple[_Proxy, S3Store]]:
    proxy = _Proxy(s3_server)
    monkeypatch.setattr(s3_module, "FIRST_DELAY_S", 0.001)
    opened = open_store(
        "s3",
        endpoint=f"127.0.0.1:{proxy.server.server_address[1]}",
        secure=False,
        bucket="understudy-tests",
        access_key="test",
        secret_key="test-secret",
        prefix=request.node.name.partition("[")[0],
        cache_dir=tmp_path / "cache",
    )
    assert isinstance(opened, S3Store)
    yield proxy, opened
    proxy.server.shutdown()
    proxy.server.server_close()


@pytest.mark.parametrize("action", ["503", "500", "429", "drop"])
def test_a_short_outage_is_not_noticed(proxied: tuple[_Proxy, S3Store], action: str) -> None:
    proxy, bucket = proxied
    proxy.plan = lambda method, path, count: action if count % 3 else "pass"
    data = random.Random(6).randbytes(50_000)
    bucket.put("k", data)
    bucket.put(f"new-{action}", data, if_absent=True)
    assert bucket.get("k") == data
    assert bucket.read("k", 10, 10) == data[10:20]
    assert bucket.stat("k").size_bytes == len(data)
    assert "k" in keys_of(bucket)
    with bucket.open("k") as stream:
        assert stream.read() == data
    bucket.delete("k")


def test_a_long_outage_is_transient_and_bounded(proxied: tuple[_Proxy, S3Store]) -> None:
    proxy, bucket = proxied
    for action in ("503", "drop"):
        proxy.plan = lambda method, path, count, action=action: action  # type: ignore[misc]
        calls: list[Callable[[], Any]] = [
            lambda: bucket.put("k", b"x"),
            lambda: bucket.get("k"),
            lambda: bucket.stat("k"),
            lambda: bucket.list(""),
        ]
        for call in calls:
            proxy.count = 0
            with pytest.raises(Transient):
                call()
            assert proxy.count <= s3_module.ATTEMPTS
    nowhere = open_store("s3", endpoint="http://127.0.0.1:1", bucket="bucket", access_key="a", secret_key="s")
    with pytest.raises(Transient):
        nowhere.get("k")


def test_a_full_server_is_not_asked_again(proxied: tuple[_Proxy, S3Store]) -> None:
    proxy, bucket = proxied
    proxy.plan = lambda method, path, count: "507"
    with pytest.raises(QuotaOrCapacity):
        bucket.put("k", b"x")
    assert proxy.count == 1


def test_a_creation_whose_answer_got_lost_is_ours(proxied: tuple[_Proxy, S3Store]) -> None:
    proxy, bucket = proxied
    bucket.put("warm", b"x", if_absent=True)
    lose = {"next": True}

    def plan(method: str, path: str, count: int) -> str:
        if method == "PUT" and lose["next"]:
            lose["next"] = False
            return "lose the answer"
        return "pass"

    proxy.plan = plan
    assert bucket.put("k", b"mine", if_absent=True).sha256 == digest(b"mine")
    lose["next"] = True
    with pytest.raises(AlreadyExists):
        bucket.put("k", b"mine", if_absent=True)
    assert bucket.get("k") == b"mine"


def test_a_server_that_ignores_the_condition_is_refused(proxied: tuple[_Proxy, S3Store]) -> None:
    proxy, bucket = proxied
    proxy.plan = lambda method, path, count: "forget"
    with pytest.raises(WrongState, match="If-None-Match"):
        bucket.put("k", b"x", if_absent=True)
    with pytest.raises(NotFound):
        bucket.get("k")


def test_a_broken_download_goes_on_where_it_broke(proxied: tuple[_Proxy, S3Store]) -> None:
    proxy, bucket = proxied
    data = random.Random(8).randbytes(3_000_000)
    bucket.put("k", data)
    cuts = iter(["half", "half", "half"])
    proxy.plan = lambda method, path, count: next(cuts, "pass") if method == "GET" else "pass"
    with bucket.open("k") as stream:
        assert b"".join(iter(lambda: stream.read(100_000), b"")) == data
    cuts = iter(["half"])
    assert bucket.get("k") == data


def test_bytes_changed_on_the_way_are_noticed(proxied: tuple[_Proxy, S3Store]) -> None:
    proxy, bucket = proxied
    bucket.put("k", b"the right bytes")
    proxy.plan = lambda method, path, count: "flip" if method == "GET" else "pass"
    with pytest.raises(Corrupt):
        bucket.get("k")
    with pytest.raises(Corrupt), bucket.open("k") as stream:
        stream.read()
    with pytest.raises(Corrupt), bucket.local_path("k"):
        pass
    proxy.plan = lambda method, path, count: "pass"
    with bucket.local_path("k") as path:
        assert path.read_bytes() == b"the right bytes"


def test_what_is_sent_can_be_checked_by_the_server(bucket: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, str]] = []
    real = bucket._http.request

    def record(method: str, url: str, **options: Any) -> Any:
        sent.append(options["headers"])
        return real(method, url, **options)

    monkeypatch.setattr(bucket._http, "request", record)
    bucket.put("k", b"some bytes")
    assert sent[-1]["Content-MD5"] == base64.b64encode(hashlib.md5(b"some bytes").digest()).decode()


def test_a_missing_bucket_says_so(s3_server: str) -> None:
    nowhere = open_store("s3", endpoint=s3_server, bucket="no-such-bucket", access_key="a", secret_key="s")
    with pytest.raises(WrongState, match="bucket"):
        nowhere.put("k", b"")
    with pytest.raises(WrongState, match="bucket"):
        nowhere.list("")


# -- the node cache ----------------------------------------------------------------------------------------------------


def test_cache_downloads_once(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", 1 << 20)
    fills = []

    def fill(file: Any) -> None:
        fills.append(1)
        time.sleep(0.05)
        file.write(b"data")

    def use(_: int) -> bytes:
        with cache.file("ab" * 32, 4, fill) as path:
            return path.read_bytes()

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(use, range(6))) == {b"data"}
    assert len(fills) == 1


def test_cache_evicts_what_was_used_longest_ago_but_nothing_in_use(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", 2500)

    def use(name: str) -> Any:
        return cache.file(name * 32, 1000, lambda file: file.write(b"x" * 1000) and None)

    def names() -> set[str]:
        return {path.name[:2] for path in (tmp_path / "cache").glob("??/*")}

    with use("aa") as pinned:
        for number, name in enumerate(["bb", "cc"]):
            with use(name) as path:
                os.utime(path, (1000 + number, 1000 + number))
        os.utime(pinned, (1, 1))
        assert names() == {"aa", "cc"}
        with use("cc") as path:
            os.utime(path, (5000, 5000))
        with use("dd"):
            pass
        assert pinned.exists()
        assert names() == {"aa", "dd"}
    with use("ee"):
        pass
    assert names() == {"dd", "ee"}


def test_a_fill_that_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", 2500)

    def fill(file: Any) -> None:
        file.write(b"half")
        raise Corrupt("damaged")

    with pytest.raises(Corrupt), cache.file("ab" * 32, 10, fill):
        pass

    def full(file: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(QuotaOrCapacity), cache.file("ab" * 32, 10, full):
        pass
    assert [path for path in (tmp_path / "cache").glob("??/*") if path.is_file()] == []


# -- opening -----------------------------------------------------------------------------------------------------------


def test_open_store_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="root"):
        open_store("folder")
    with pytest.raises(InvalidInput, match="bucket, secret_key"):
        open_store("s3", endpoint="localhost:9000", access_key="a")
    with pytest.raises(InvalidInput, match="azure"):
        open_store("azure")  # type: ignore[arg-type]
    under = open_store("folder", root=tmp_path, prefix="team/one")
    under.put("a", b"1")
    assert (tmp_path / "team/one/a").read_bytes() == b"1"


@given(st.text(max_size=30))
def test_any_text_is_a_safe_key_or_refused(text: str) -> None:
    try:
        check_key(text)
    except UnderstudyError:
        return
    path = Path("/root") / text
    assert os.path.normpath(path) == str(path)
    assert path.is_relative_to("/root")
    assert "~" not in text
