import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aotcache.errors import LocalError
from aotcache.probe.trees import (
    FoundTree,
    LeftOut,
    devices,
    find_trees,
    holds_cpp,
    locks_held,
    scan_tree,
    tree_folders,
    tree_path,
)
from aotcache.protocol.names import INDUCTOR, VLLM_AOT, VLLM_JIT

CODE = "c" + "a2" * 25 + "z"
KEY = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567ABCDEFGHIJKLMNOPQRST"
AOT, JIT = "ab" * 32, "0123456789"


def put(root: Path, path: str, data: bytes = b"data") -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A vllm-aot tree with something of every kind in it."""
    root = tmp_path / "tree"
    put(root, f"inductor_cache/a2/{CODE}.py")
    put(root, f"inductor_cache/a2/{CODE}.main.so", b"elf").chmod(0o755)
    put(root, f"inductor_cache/triton/0/{KEY}/kernel.cubin")
    put(root, f"inductor_cache/triton/3/{KEY}/kernel.cubin")
    put(root, "rank_0_0/model", b"model")
    # Transient: each of these counts once, whatever lies below it.
    put(root, f"inductor_cache/locks/{CODE}.lock", b"")
    put(root, f"inductor_cache/triton/0/{KEY}/tmp.pid_1_x/kernel.json")
    put(root, "inductor_cache/a2/.12.34.tmp")
    put(root, "rank_0_0/model.4711.tmp")
    # Left out by name.
    put(root, "inductor_cache/secret.txt")
    put(root, "rank_1_0/model", b"")
    (root / "inductor_cache" / "link").symlink_to("/etc")
    (root / "rank_2_0").mkdir()
    (root / "rank_2_0" / "model").symlink_to("../rank_0_0/model")
    os.mkfifo(root / "inductor_cache" / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(root / "inductor_cache" / "sock"))
    put(root, "inductor_cache/bad\x1b[2J\nname")
    return root


def test_a_scan_sorts_files_by_part_and_names_what_it_leaves_out(tree: Path) -> None:
    scan = scan_tree(VLLM_AOT, str(tree))
    assert [(file.path, file.part_dir, file.size, file.executable) for file in scan.files] == [
        (f"inductor_cache/a2/{CODE}.main.so", "shared", 3, True),
        (f"inductor_cache/a2/{CODE}.py", "shared", 4, False),
        (f"inductor_cache/triton/0/{KEY}/kernel.cubin", "shared", 4, False),
        (f"inductor_cache/triton/3/{KEY}/kernel.cubin", "shared", 4, False),
        ("rank_0_0/model", "rank_0_0", 5, False),
    ]
    assert scan.left_out == (
        LeftOut("inductor_cache/bad\\x1b[2J\\nname", "not a file of a vllm-aot tree"),
        LeftOut("inductor_cache/link", "symbolic link"),
        LeftOut("inductor_cache/pipe", "fifo"),
        LeftOut("inductor_cache/secret.txt", "not a file of a vllm-aot tree"),
        LeftOut("inductor_cache/sock", "socket"),
        LeftOut("rank_1_0/model", "empty: the engine failed while it saved its model"),
        LeftOut("rank_2_0/model", "symbolic link"),
    )
    assert scan.transient == 4


def test_a_scan_carries_what_tells_a_changed_file(tree: Path) -> None:
    status = (tree / "rank_0_0" / "model").stat()
    (model,) = [file for file in scan_tree(VLLM_AOT, str(tree)).files if file.part_dir != "shared"]
    assert (model.mtime_ns, model.inode) == (status.st_mtime_ns, status.st_ino)


def test_devices_and_cpp(tree: Path) -> None:
    scan = scan_tree(VLLM_AOT, str(tree))
    assert devices(scan) == (0, 3)
    assert holds_cpp(scan)
    (tree / "inductor_cache" / "a2" / f"{CODE}.main.so").unlink()
    # Triton builds this one without -march=native: it runs on any CPU of the machine's kind.
    put(tree, f"inductor_cache/triton/0/{KEY}/hip_utils.cpython-311-x86_64-linux-gnu.so")
    assert not holds_cpp(scan_tree(VLLM_AOT, str(tree)))


def test_a_jit_tree_with_an_older_triton_cache_holds_no_cpp(tmp_path: Path) -> None:
    put(tmp_path, f"rank_0_0/triton_cache/{KEY}/cuda_utils.so")
    scan = scan_tree(VLLM_JIT, str(tmp_path))
    assert [file.part_dir for file in scan.files] == ["rank_0_0"]
    assert not holds_cpp(scan)
    assert devices(scan) == ()


def test_a_name_that_is_not_text_is_named_in_ascii(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9", "wb"):
        pass
    (left_out,) = scan_tree(INDUCTOR, str(tmp_path)).left_out
    assert left_out.path == "caf\\udce9"


def test_an_unreadable_directory_is_named_and_the_rest_is_listed(tree: Path) -> None:
    """Run as a user whom permissions bind: the tests may be run by root."""
    for directory in (tree, *tree.parents):
        if directory.stat().st_uid == os.getuid() and directory != Path("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o055)
    (tree / "inductor_cache" / "triton" / "3").chmod(0)
    result = _as_nobody(
        "import sys\n"
        "from aotcache.probe.trees import scan_tree\n"
        "scan = scan_tree('vllm-aot', sys.argv[1])\n"
        "print(len(scan.files), [item for item in scan.left_out if 'triton' in item.path])",
        str(tree),
    )
    assert result == (
        "4 [LeftOut(path='inductor_cache/triton/3', reason='cannot be read: Permission denied')]"
    )


def _as_nobody(code: str, *args: str) -> str:
    """What the code prints, run by an unprivileged user where this one is root."""
    drop = "import os\nif os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    # Imports come first: the unprivileged user may not see where the code lies.
    head, _, body = code.partition("scan =")
    result = subprocess.run(
        [sys.executable, "-c", head + drop + "scan =" + body, *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_a_tree_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="No such file"):
        scan_tree(VLLM_AOT, str(tmp_path / "gone"))


def test_trees_are_found_by_their_names(tmp_path: Path) -> None:
    compiled = tmp_path / "torch_compile_cache"
    for directory in (
        compiled / "torch_aot_compile" / AOT,
        compiled / "torch_aot_compile" / "not-a-hash",
        compiled / JIT,
        compiled / "other",
        tmp_path / "inductor" / "train-1.2",
        tmp_path / "inductor" / ".hidden",
    ):
        directory.mkdir(parents=True)
    put(compiled / "torch_aot_compile", "cd" * 32)  # a file
    (compiled / "torch_aot_compile" / ("ef" * 32)).symlink_to(compiled)
    assert find_trees(str(tmp_path)) == [
        FoundTree(VLLM_AOT, AOT, str(compiled / "torch_aot_compile" / AOT)),
        FoundTree(VLLM_JIT, JIT, str(compiled / JIT)),
        FoundTree(INDUCTOR, "train-1.2", str(tmp_path / "inductor" / "train-1.2")),
    ]


@pytest.mark.parametrize(("layout", "name"), [(VLLM_AOT, AOT), (VLLM_JIT, JIT), (INDUCTOR, "key")])
def test_a_tree_is_found_where_its_path_says(tmp_path: Path, layout: str, name: str) -> None:
    path = tree_path(str(tmp_path), layout, name)
    os.makedirs(path)
    assert find_trees(str(tmp_path)) == [FoundTree(layout, name, path)]
    assert os.path.dirname(path) in tree_folders(str(tmp_path))


def test_no_cache_root_is_no_trees(tmp_path: Path) -> None:
    assert find_trees(str(tmp_path / "gone")) == []


@contextmanager
def held_by_another_process(lock: Path) -> Iterator[None]:
    code = (
        "import sys, filelock\n"
        "with filelock.FileLock(sys.argv[1]):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield
    finally:
        holder.communicate(timeout=30)


@pytest.mark.parametrize(
    "directory",
    [
        "locks",
        "inductor_cache/locks",
        "rank_0_0/inductor_cache/locks",
        "rank_0_0/backbone/inductor_cache/locks",
        "rank_0_0/backbone/artifact_range_1_8/locks",
    ],
)
def test_a_lock_is_held_while_its_process_lives(tmp_path: Path, directory: str) -> None:
    lock = put(tmp_path, f"{directory}/{CODE}.lock", b"")
    put(tmp_path, f"{directory}/stale.lock", b"")
    with held_by_another_process(lock):
        assert locks_held(str(tmp_path)) == [f"{directory}/{CODE}.lock"]
    assert locks_held(str(tmp_path)) == []


def test_testing_a_lock_leaves_it_free(tmp_path: Path) -> None:
    lock = put(tmp_path, "locks/a.lock", b"")
    assert locks_held(str(tmp_path)) == []
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_symbolic_link_is_nobodys_lock(tmp_path: Path) -> None:
    target = put(tmp_path, "elsewhere", b"")
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "a.lock").symlink_to(target)
    with held_by_another_process(target):
        assert locks_held(str(tmp_path)) == []


def test_no_locks_where_there_is_no_tree(tmp_path: Path) -> None:
    assert locks_held(str(tmp_path / "gone")) == []
