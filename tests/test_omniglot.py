"""Omniglot: the reader refuses what is missing, damaged or unsafe and leaves nothing half-written; clients keep apart
what must be apart. The real files are used where they stand beside the project, else small zips made here."""

import io
import os
import shutil
import stat
import struct
import threading
import tracemalloc
import zipfile
import zlib
from collections import Counter
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import fmlab as fm
from fmlab import npy
from fmlab.archive import StudyError
from fmlab.models import conv
from fmlab.populations import omniglot_files as files
from fmlab.populations.omniglot_files import OmniglotError
from fmlab.vision import import_torchvision

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "omniglot"
ALPHABETS = {"Aleph": 3, "Bet": 3, "Gimel": 4, "Dalet": 3, "He": 3}
DRAWERS = 6
pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes on Windows")


def png(*key, side=105):
    """One drawing, white with black strokes, one bit a pixel; a function of its key."""
    ink = np.random.default_rng(zlib.crc32(repr(key).encode())).random((7, 7)) < 0.3
    big = np.zeros((side, side), bool)
    big[: 15 * 7, : 15 * 7] = np.kron(ink, np.ones((15, 15), bool))[:side, :side]
    out = io.BytesIO()
    Image.fromarray(~big).save(out, "PNG")
    return out.getvalue()


def members(name, alphabets=ALPHABETS, drawers=DRAWERS):
    """{path inside the zip: bytes}; the same character in two sets is the same drawing."""
    return {
        f"{name}/{a}/character{c:02}/{c:04}_{d:02}.png": png(a, c, d)
        for a, characters in alphabets.items()
        for c in range(1, characters + 1)
        for d in range(1, drawers + 1)
    }


def write(root, name="images_background_small1", content=None, **extra):
    path = root / f"{name}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr(f"{name}/", "")
        for member, data in ((content or members(name)) | extra).items():
            z.writestr(member, data)
    return path


@pytest.fixture
def root(tmp_path):
    write(tmp_path)
    return tmp_path


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    """serve(folder) -> the address of a server of this machine over it, in place of the network."""
    running = []

    def start(folder):
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
        running.append((server, threading.Thread(target=server.serve_forever)))
        running[-1][1].start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def tree(root):
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*"))


def small(root, **fields):
    given = {"ways": 3, "shots": 1, "query": 1, "test": 2, "unseen_alphabets": 2, "validation_alphabets": 1}
    return fm.Omniglot(root=root, **(given | {"n_clients": 20, "n_validation": 4, "n_unseen": 6} | fields))


# The reader


def test_reads_a_zip_a_folder_and_torchvisions_place_alike(tmp_path):
    for place in ("zip", "folder", "inside/omniglot-py"):
        (tmp_path / place).mkdir(parents=True)
    path = write(tmp_path / "zip")
    zipfile.ZipFile(path).extractall(tmp_path / "folder")
    shutil.copy(path, tmp_path / "inside" / "omniglot-py")
    read = [files.load(tmp_path / place) for place in ("zip", "folder", "inside")]
    assert read[0].ink.shape == (sum(ALPHABETS.values()) * DRAWERS, 28, 28)
    for other in read[1:]:
        for column in ("ink", "alphabet", "character", "drawer"):
            assert np.array_equal(getattr(read[0], column), getattr(other, column))
    assert tree(tmp_path / "zip") == ["images_background_small1.zip", "omniglot-28.npz"]  # never unpacked


def test_a_drawing_that_stands_in_two_sets_is_taken_once(root):
    alone = files.load(root)
    write(root, "images_background_small2", members("images_background_small2", {"Aleph": 3, "Vav": 2}))
    both = files.load(root)
    assert len(both.ink) == len(alone.ink) + 2 * DRAWERS
    assert Counter(both.alphabet)["Aleph"] == 3 * DRAWERS


def test_a_drawing_that_differs_between_sets_is_an_error(root):
    name = "images_background_small2"
    wrong = members(name, {"Aleph": 3}) | {f"{name}/Aleph/character02/0002_03.png": png("another")}
    write(root, name, wrong)
    with pytest.raises(OmniglotError, match=r"character02/0002_03.png differs from the same drawing in another set"):
        files.load(root)


def test_torchvision_reads_the_same(tmp_path, monkeypatch, serve):
    """torchvision's own data set over the same zip, pixel by pixel; it also downloads and unpacks it."""
    published = import_torchvision().datasets.Omniglot
    utils = import_torchvision().datasets.utils
    path = write(tmp_path, "images_background")
    monkeypatch.setattr(published, "zips_md5", {"images_background": utils.calculate_md5(str(path))})
    monkeypatch.setattr(published, "download_url_prefix", serve(tmp_path))
    theirs = published(str(tmp_path / "theirs"), background=True, download=True)
    ours = files.load(tmp_path, 105)
    assert len(theirs) == len(ours.ink)
    row = {key: i for i, key in enumerate(zip(ours.alphabet, ours.character, ours.drawer, strict=True))}
    for (image, label), (name, _) in zip(theirs, theirs._flat_character_images, strict=True):
        alphabet, character = Path(theirs._characters[label]).parts
        drawer = int(name.split("_")[1].removesuffix(".png"))
        assert np.array_equal(255 - np.asarray(image), ours.ink[row[alphabet, character, drawer]])


@given(full=st.integers(1, 120), size=st.integers(1, 120))
def test_area_weights_keep_the_ink(full, size):
    weights = files.area(full, size)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-9)  # an image all of ink stays one
    np.testing.assert_allclose(weights.sum(0), size / full, rtol=1e-9)  # every pixel counts the same
    assert weights.min() >= 0


@pytest.mark.parametrize("block", [3, 5, 7])
def test_area_is_the_mean_of_blocks(block):
    image = np.random.default_rng(0).random((105, 105))
    weights = files.area(105, 105 // block)
    blocks = image.reshape(105 // block, block, 105 // block, block).mean((1, 3))
    np.testing.assert_allclose(weights @ image @ weights.T, blocks, rtol=1e-12)


def test_ink_is_one(root):
    ink = files.load(root, 105).ink[0]
    image = np.asarray(Image.open(io.BytesIO(png("Aleph", 1, 1))))
    assert set(np.unique(ink)) == {0, 255}
    assert np.array_equal(ink == 255, ~image)


# What is unsafe or damaged


def linked():
    link = zipfile.ZipInfo("images_background_small1/Aleph/character01/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    return link


@pytest.mark.parametrize(
    ("member", "says"),
    [
        ("../outside.png", "points outside"),
        ("images_background_small1/../../outside.png", "points outside"),
        ("/etc/outside.png", "points outside"),
        ("..\\outside.png", "points outside"),
        ("C:/outside.png", "points outside"),
        (linked(), "is a link"),
        ("images_background_small1/Aleph/character01/0001_99.png", "unpacks to 1,048,577 bytes"),
    ],
)
def test_an_unsafe_archive_is_refused_whole(root, member, says):
    with zipfile.ZipFile(root / "images_background_small1.zip", "a", zipfile.ZIP_DEFLATED) as z:
        z.writestr(member, bytes(2**20 + 1) if "bytes" in says else b"x")
    before = tree(root.parent)
    with pytest.raises(OmniglotError, match=says):
        fm.Omniglot(root=root)
    assert tree(root.parent) == before


def test_too_much_in_all_is_refused(root, monkeypatch):
    monkeypatch.setattr(files, "MAX_TOTAL", 10_000)
    with pytest.raises(OmniglotError, match="do not use this file"):
        files.load(root)


def cut(path):
    path.write_bytes(path.read_bytes()[:-500])


def empty(path):
    path.write_bytes(b"")


def nonsense(path):
    path.write_bytes(b"<html>not found</html>")


def flip(path):
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as z:
        info = max(z.infolist(), key=lambda i: i.compress_size)
    at = info.header_offset + 30 + len(info.filename) + info.compress_size // 2
    data[at] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, flip, empty, nonsense])
def test_a_damaged_zip(root, damage):
    damage(root / "images_background_small1.zip")
    before = tree(root)
    with pytest.raises(OmniglotError, match=r"is damaged .*delete it and get the zips"):
        files.load(root)
    assert tree(root) == before


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"not an image", "is no readable PNG"),
        (png("Aleph", 1, 1)[:100], "is no readable PNG"),
        (png("Aleph", 1, 1, side=64), "is 64 x 64; Omniglot's drawings are 105 x 105"),
    ],
    ids=["not an image", "cut", "of another size"],
)
def test_a_damaged_drawing(tmp_path, content, says):
    name = "images_background_small1"
    write(tmp_path, name, members(name) | {f"{name}/Bet/character01/0001_02.png": content})
    with pytest.raises(OmniglotError, match=rf"Bet/character01/0001_02.png {says}"):
        files.load(tmp_path)
    assert tree(tmp_path) == [f"{name}.zip"]


def test_an_incomplete_character_is_named(tmp_path):
    name = "images_background_small1"
    content = members(name)
    del content[f"{name}/Gimel/character03/0003_04.png"]
    write(tmp_path, name, content)
    with pytest.raises(OmniglotError, match="Gimel/character03 has fewer drawings than the 6"):
        small(tmp_path)


def test_a_method_of_packing_that_was_never_published(root):
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        with zipfile.ZipFile(root / "images_background_small1.zip", "w", method) as z:
            for member, data in members("images_background_small1").items():
                z.writestr(member, data)
        with pytest.raises(OmniglotError, match=rf"0001_01.png' is packed by method {method}, not by deflate"):
            files.load(root)


def patched(path, old, new):
    """Other bytes in every header of a zip."""
    data = path.read_bytes()
    assert len(old) == len(new)
    assert old in data
    path.write_bytes(data.replace(old, new))


def test_a_name_that_is_no_text(root):
    path = write(root, Aleph_é=b"x")
    patched(path, "Aleph_é".encode(), b"Aleph_\xff\xff")
    with pytest.raises(OmniglotError, match=r"is damaged .*codec"):
        files.load(root)


def test_sizes_that_lie_inflate_nothing(root):
    """A member that declares 500 bytes and inflates to 64 MB; the checksum is that of its first 500."""
    name, data = "images_background_small1/Aleph/character01/0001_01.png", bytes(2**26)
    with zipfile.ZipFile(root / "images_background_small1.zip", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr(name, data)
    true = struct.pack("<LLL", zlib.crc32(data), z.getinfo(name).compress_size, len(data))
    said = struct.pack("<LLL", zlib.crc32(data[:500]), z.getinfo(name).compress_size, 500)
    patched(root / "images_background_small1.zip", true, said)
    tracemalloc.start()
    with pytest.raises(OmniglotError, match=r"0001_01\.png is no readable PNG"):
        files.load(root)
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


def test_more_members_or_bytes_than_were_ever_published(root, tmp_path, monkeypatch):
    path = root / "images_background_small1.zip"
    monkeypatch.setattr(files, "MAX_MEMBERS", 90)
    with pytest.raises(OmniglotError, match=r"small1\.zip has 97 members"):
        files.load(root)
    zipfile.ZipFile(path).extractall(tmp_path / "folder")
    with pytest.raises(OmniglotError, match=r"small1 has more than 90 files"):
        files.load(tmp_path / "folder")
    monkeypatch.setattr(files, "MAX_ZIP", 1000)
    with pytest.raises(OmniglotError, match=r"bytes; the published ones have 10 MB at most"):
        files.load(root)


@pytest.mark.parametrize("side", [20_000, 50_000])  # PIL warns of the one and refuses the other
def test_an_enormous_drawing_is_refused_by_its_header(tmp_path, side):
    name = "images_background_small1"
    head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    write(tmp_path, name, members(name) | {f"{name}/Bet/character01/0001_02.png": data})
    with pytest.raises(OmniglotError, match=f"0001_02.png is {side} x {side}; Omniglot's drawings are 105 x 105"):
        files.load(tmp_path)


@pytest.mark.parametrize("kind", ["folder", pytest.param("pipe", marks=pipes)])
def test_only_regular_files_are_read(tmp_path, kind):
    make = Path.mkdir if kind == "folder" else os.mkfifo
    path = write(tmp_path)
    zipfile.ZipFile(path).extractall(tmp_path)
    path.unlink()
    make(tmp_path / "images_background_small1" / "Aleph" / "character01" / "0001_07.png")
    with pytest.raises(OmniglotError, match=r"0001_07\.png is no regular file"):
        files.load(tmp_path)


@pipes
def test_a_pipe_in_place_of_a_zip_or_of_the_cache(root, tmp_path):
    os.mkfifo(root / "omniglot-28.npz")
    files.load(root)  # made without a cache, and the cache then stands there
    os.mkfifo(root / "images_evaluation.zip")
    with pytest.raises(OmniglotError, match=r"images_evaluation\.zip is no regular file"):
        files.load(root)


FEW = members("images_background_small1", {"Aleph": 2}, 3)


@given(where=st.floats(0, 1, exclude_max=True), bit=st.none() | st.integers(0, 7), of=st.sampled_from(["zip", "cache"]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bit_and_any_cut_gives_the_drawings_or_the_one_error(root, where, bit, of):
    """A flip in the zip may change a name, and take that drawing out; never a pixel. One in the cache, nothing."""
    path = write(root, content=FEW)
    (root / "omniglot-28.npz").unlink(missing_ok=True)
    files._load.cache_clear()
    whole = files.load(root)
    kept = {k: i for i, k in enumerate(zip(whole.alphabet, whole.character, whole.drawer, strict=True))}
    path = root / "omniglot-28.npz" if of == "cache" else path
    data = bytearray(path.read_bytes())
    at = int(where * len(data))
    if bit is None:
        del data[at:]
    else:
        data[at] ^= 1 << bit
    path.write_bytes(data)
    files._load.cache_clear()
    try:
        found = files.load(root)
    except OmniglotError:
        assert of == "zip"
        return
    if of == "cache":
        assert np.array_equal(found.ink, whole.ink)
    for i, k in enumerate(zip(found.alphabet, found.character, found.drawer, strict=True)):
        if k in kept:
            assert np.array_equal(found.ink[i], whole.ink[kept[k]])
    assert len(kept) - 1 <= len(found.ink) <= len(kept)  # two may now have one name


def test_missing_files(tmp_path):
    with pytest.raises(OmniglotError, match=r"is not a folder; get the zips .*download=True"):
        fm.Omniglot(root=tmp_path / "nowhere")
    with pytest.raises(OmniglotError, match=r"looked for images_background, .*download=True"):
        fm.Omniglot(root=tmp_path)
    (tmp_path / "images_evaluation").mkdir()
    with pytest.raises(OmniglotError, match="holds no drawing"):
        fm.Omniglot(root=tmp_path)


def test_a_folder_with_a_link_is_refused(tmp_path):
    path = write(tmp_path)
    zipfile.ZipFile(path).extractall(tmp_path)
    path.unlink()
    (tmp_path / "images_background_small1" / "Aleph" / "character01" / "0001_07.png").symlink_to("/etc/hostname")
    with pytest.raises(OmniglotError, match=r"0001_07.png is a link"):
        files.load(tmp_path)


# The cache


def test_the_cache_is_plain_arrays_and_spares_the_decoding(root, monkeypatch):
    first = files.load(root)
    files._load.cache_clear()
    monkeypatch.setattr(files, "decode", lambda *_: pytest.fail("decoded again"))
    again = files.load(root)
    assert np.array_equal(first.ink, again.ink)
    with np.load(root / "omniglot-28.npz", allow_pickle=False) as f:
        assert all(f[name].dtype != object for name in f.files)


@pytest.mark.parametrize("damage", [cut, empty, nonsense])
def test_a_damaged_cache_is_made_again(root, damage):
    first = files.load(root)
    files._load.cache_clear()
    damage(root / "omniglot-28.npz")
    assert np.array_equal(files.load(root).ink, first.ink)
    files._load.cache_clear()
    assert files._from_cache(root / "omniglot-28.npz", "00" * 32, first.ink.shape) is None
    with np.load(root / "omniglot-28.npz", allow_pickle=False) as f:
        assert np.array_equal(f["ink"], first.ink)


@pytest.mark.parametrize("shape", [(96, 28, 27), (95, 28, 28), (96, 28), (10**12, 28, 28)])
@pytest.mark.parametrize("dtype", ["<u1", "<f4"])
def test_a_cache_of_other_arrays_is_made_again(root, shape, dtype):
    """Under the right digest; also where a header claims what no memory holds."""
    first = files.load(root)
    files._load.cache_clear()
    cache = root / "omniglot-28.npz"
    with zipfile.ZipFile(cache) as archive:
        digest = archive.read("digest.npy")
    with zipfile.ZipFile(cache, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("digest.npy", digest)
        with archive.open("ink.npy", "w") as f:
            np.lib.format.write_array_header_1_0(f, {"descr": dtype, "fortran_order": False, "shape": shape})
            f.write(bytes(4 * 96 * 28 * 28))
    assert np.array_equal(files.load(root).ink, first.ink)


def test_other_files_make_another_cache(root):
    files.load(root)
    write(root, "images_background_small2", members("images_background_small2", {"Vav": 2}))
    assert "Vav" in files.load(root).alphabet
    with np.load(root / "omniglot-28.npz", allow_pickle=False) as f:
        assert len(f["ink"]) == (sum(ALPHABETS.values()) + 2) * DRAWERS


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_nothing(root, monkeypatch, error):
    def stops(archive, name, array):
        archive.writestr(name, b"half")
        raise error

    monkeypatch.setattr(npy, "write", stops)
    if isinstance(error, OSError):
        assert len(files.load(root).ink)  # a full disk costs the cache alone
    else:
        with pytest.raises(KeyboardInterrupt):
            files.load(root)
    assert tree(root) == ["images_background_small1.zip"]


# The download, by torchvision's addresses and checksums, from a server of this machine in place of the network


@pytest.fixture
def published(tmp_path, monkeypatch, serve):
    there = tmp_path / "published"
    there.mkdir()
    utils, kind = import_torchvision().datasets.utils, import_torchvision().datasets.Omniglot
    held = {"images_background": ALPHABETS, "images_evaluation": {"Zayin": 3, "Het": 4}}
    paths = {name: write(there, name, members(name, alphabets)) for name, alphabets in held.items()}
    monkeypatch.setattr(kind, "zips_md5", {name: utils.calculate_md5(str(p)) for name, p in paths.items()})
    monkeypatch.setattr(kind, "download_url_prefix", serve(there))
    return there


def test_download(tmp_path, published):
    root = tmp_path / "new" / "root"
    clients = small(root, download=True)
    assert tree(root) == ["images_background.zip", "images_evaluation.zip", "omniglot-28.npz"]
    assert clients.alphabets("unseen", 0) == clients.alphabets("unseen", 1) == ["Het", "Zayin"]
    shutil.rmtree(published)
    assert small(root, download=True) == clients  # what stands is not fetched again


@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_a_failed_download_leaves_nothing(tmp_path, published, damage):
    damage(published / "images_evaluation.zip")
    root = tmp_path / "root"
    with pytest.raises(OmniglotError, match=r"could not download .*images_evaluation.zip .*nothing was kept"):
        fm.Omniglot(root=root, download=True)
    assert tree(root) == ["images_background.zip"]  # the whole one


# The clients


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_alphabets_and_drawings_are_kept_apart(root, seed):
    clients = small(root)
    by_split = {s: set(clients.alphabets(s, seed)) for s in ("training", "validation", "unseen")}
    assert sum(map(len, by_split.values())) == len(set().union(*by_split.values())) == len(ALPHABETS)
    drawings, drawn = files.load(root), {s: clients.draw(s, seed) for s in (*by_split, "participating")}
    rows = {s: torch.cat([c.support.x, c.query.x], -1) for s, c in drawn.items()}
    for split, alphabets in by_split.items():
        assert set(drawings.alphabet[rows[split].unique() % len(drawings.ink)]) <= alphabets
    kept = clients.shots + clients.test
    assert drawings.drawer[rows["training"].unique() % len(drawings.ink)].max() <= DRAWERS - kept
    assert drawings.drawer[rows["unseen"].unique() % len(drawings.ink)].min() > DRAWERS - kept
    assert torch.equal(drawn["participating"].support.x, drawn["training"].support.x)
    assert not set(drawn["participating"].query.x.flatten().tolist()) & set(rows["training"].flatten().tolist())
    for one in drawn.values():
        assert (one.support.x[..., None] != one.query.x[..., None, :]).all()  # no client scores on its support


def test_the_seed_decides_which_alphabets(root):
    clients = small(root)
    splits = {tuple(clients.alphabets("unseen", s)) for s in range(8)}
    assert len(splits) > 1
    assert clients.alphabets("unseen", 3) == small(root).alphabets("unseen", 3)


def test_rotations_are_classes_of_their_own(root):
    clients = small(root)
    bank, n = clients.bank(), len(clients.characters())
    assert bank.images.dtype.is_floating_point
    assert bank.images.amax() == 1
    for turn in range(4):
        upright = bank.images[bank.training[0, :n]]
        assert torch.equal(bank.images[bank.training[0, turn * n : (turn + 1) * n]], upright.rot90(turn, (2, 3)))
    assert (clients.pool("training", 0).classes >= n).any()
    assert (clients.pool("unseen", 0).classes < n).all()
    assert len(small(root, rotations=False).pool("training", 0).classes) * 4 == len(clients.pool("training", 0).classes)


def test_tasks_have_the_shape_of_learn2learns(root):
    """learn2learn's sampler over the same drawings: as many examples of each label, labels from 0, classes distinct."""
    from lab.install.l2l import load

    l2l = load()
    clients = small(root, rotations=False)
    bank = clients.bank()
    rows = bank.training[0]
    labels = torch.arange(len(rows))[:, None].expand(rows.shape).flatten()
    data = l2l.data.MetaDataset(torch.utils.data.TensorDataset(bank.images[rows.flatten()], labels))
    transforms = l2l.data.transforms
    steps = [transforms.NWays(data, 3), transforms.KShots(data, 2), transforms.LoadData(data)]
    tasks = l2l.data.Taskset(data, [*steps, transforms.RemapLabels(data)], num_tasks=1)
    x, y = tasks.sample()
    support, query, _ = clients.draw("training", 0).take(torch.zeros(1, 1, dtype=torch.int64))
    ours = torch.cat([support.y, query.y], -1).flatten()
    assert Counter(ours.tolist()) == Counter(y.tolist()) == {0: 2, 1: 2, 2: 2}
    assert torch.cat([support.x, query.x], 2).shape[2:] == x.shape


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"unseen_alphabets": 4}, "leave none of the 5 under"),
        ({"shots": 2}, r"shots = 2, query = 1, test = 2: a character has 6 drawings.*2 shots \+ query \+ test <= 6"),
        ({"size": 13}, r"size = 13 is outside \[14, 105\]"),
        ({"ways": 1}, "ways = 1"),
        ({"download": "yes"}, "download = 'yes' is not one of"),
    ],
)
def test_bad_fields(root, fields, says):
    with pytest.raises(ValueError, match=says):
        small(root, **fields)


@pytest.mark.parametrize("field", ["shots", "query", "test"])
def test_what_the_other_fields_leave_a_field(root, field):
    population = small(root, test=1)
    low, high = population.span(field)
    assert low == 1 < high
    for end in (low, high):
        assert replace(population, **{field: end}).draw("training", 0).number == population.n_clients
    with pytest.raises(ValueError, match="give 2 shots"):
        replace(population, **{field: high + 1})


def test_more_ways_than_characters_is_said_before_training(root):
    with pytest.raises(ValueError, match=r"ways = 9 is more than the \d classes that validation clients may have"):
        fm.compare([fm.FedAvg(lr=0.1, adapt_lr=0.1)], small(root, ways=9), rounds=1, seeds=1, clients_per_round=3)


@pytest.mark.parametrize("heterogeneity", [0.0, 1.0])
def test_a_comparison(root, heterogeneity):
    methods = {
        "FedAvg": fm.FedAvg(lr=0.1, adapt_lr=0.1),
        "FedMAML": fm.FedMAML(inner_lr=fm.sweep(0.1, 0.4), adapt_lr=0.1),
    }
    clients = small(root, heterogeneity=heterogeneity, size=14)
    study = fm.compare(methods, clients, rounds=2, seeds=2, clients_per_round=3, steps=2, model=conv(3, 2, size=14))
    assert study.accuracy["FedAvg"].shape == (2, 6, 3)
    assert study.accuracy["FedMAML"].shape == (2, 2, 6, 3)
    assert study.adaptation["FedMAML"].isfinite().all()


def test_a_study_is_saved_and_read_also_where_the_files_have_moved(root, tmp_path):
    options = {"rounds": 2, "seeds": 2, "clients_per_round": 3, "steps": 1, "evaluations": 1}
    study = fm.compare([fm.FedAvg(lr=0.1, adapt_lr=0.1)], small(root, size=14), **options)
    study.save(tmp_path / "study")
    loaded = fm.load(tmp_path / "study")
    assert loaded.config == study.config
    assert torch.equal(loaded.adaptation["FedAvg"], study.adaptation["FedAvg"])
    moved = root.rename(tmp_path.with_name(tmp_path.name + "-moved"))
    files._load.cache_clear()
    with pytest.raises(StudyError, match=r"config\.json: clients: .*is not a folder.*clients=fm\.Omniglot\(root="):
        fm.load(moved / "study")
    loaded = fm.load(moved / "study", clients=small(moved, size=14))
    again, ours = loaded.resume(rounds=3), fm.compare(**study.config | {"clients": small(moved, size=14), "rounds": 3})
    assert torch.equal(again.adaptation["FedAvg"], ours.adaptation["FedAvg"])
    with pytest.raises(StudyError, match=r"clients\.skew = 0\.0, and 1\.0 is given"):
        fm.load(moved / "study", clients=small(moved, size=14, skew=1.0))


def test_a_saved_study_makes_nobody_download(root, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "download", lambda root: None)
    options = {"rounds": 1, "seeds": 1, "clients_per_round": 3, "steps": 1, "evaluations": 1}
    study = fm.compare([fm.FedAvg(lr=0.1, adapt_lr=0.1)], small(root, size=14, download=True), **options)
    study.save(tmp_path / "study")
    monkeypatch.setattr(files, "download", lambda root: pytest.fail("downloads"))
    assert fm.load(tmp_path / "study").population == small(root, size=14)


# The real files


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    if not REAL.is_dir():
        pytest.skip("the two minimal Omniglot sets do not stand in ../shared/data/omniglot")
    root = tmp_path_factory.mktemp("omniglot")
    for path in REAL.glob("*.zip"):
        shutil.copy(path, root)  # the cache is written beside them
    return root


def test_the_minimal_sets(real):
    clients = fm.Omniglot(root=real)
    drawings = files.load(real)
    assert drawings.ink.shape == (4840, 28, 28)
    assert len(clients.characters()) == 242
    assert len(set(drawings.alphabet)) == 8
    assert Counter(drawings.alphabet)["Greek"] == 480  # in both sets, taken once
    assert 0.02 < drawings.ink.mean() / 255 < 0.2  # mostly paper
    assert drawings.ink.any((1, 2)).all()
    names = [clients.alphabets(split, 0) for split in ("training", "validation", "unseen")]
    assert [len(n) for n in names] == [5, 1, 2]


def test_adaptation_helps_on_unseen_alphabets(real):
    """A tiny run on real drawings: before its steps a client guesses, after them it does better."""
    clients = fm.Omniglot(root=real, n_clients=50, n_unseen=30, n_validation=5)
    study = fm.compare(
        [fm.FedMAML(inner_lr=0.2, adapt_lr=0.2)],
        clients,
        rounds=5,
        seeds=1,
        clients_per_round=5,
        steps=3,
        evaluations=1,
        dtype=torch.float32,
        model=conv(5, width=4, norm="group"),
    )
    accuracy = study.accuracy["FedMAML"].mean((0, 1))
    assert accuracy[-1] > accuracy[0] + 0.1
