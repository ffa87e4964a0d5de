"""Seconds of pull and publish, ours and theirs, in turns."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from aotcache.probe.trees import FoundTree
from bench import ours
from bench.peers import AWS, CP, S5CMD, SCANDIR, TAR, WALK, Peer, peers
from bench.servers import Line
from bench.stage import Found, Stage, same, say
from bench.timing import Contestant, Sample, alternate, timed
from bench.vllm_trees import lacking
from bench.work import QWEN, TINY, TWO, VLLM, files_below

FAR = 10  # milliseconds of added round trip


def pull(stage: Stage) -> Found:
    """The tree to an empty directory, near the servers."""
    return _pull(stage, 0, stage.main, list(taking_part()))


def pull_far(stage: Stage) -> Found:
    return _pull(stage, FAR, stage.main, list(taking_part()))


def pull_others(stage: Stage) -> Found:
    """Trees of other shapes, against one object: a request a file is hopeless with 50,000."""
    found = Found(left_out=lacking())
    quick = [peer for peer in peers() if peer.name == TAR]
    for name in (QWEN, TINY) if found.left_out else (QWEN, TINY, VLLM, TWO):
        found.runs |= _pull(stage, 0, name, quick).runs
    return found


def pull_of(name: str, distance: str) -> str:
    """What the report calls a pull of this tree."""
    return f"pull {name}, {distance}"


def taking_part() -> Iterator[Peer]:
    return (peer for peer in peers() if not peer.lacks)


def _pull(stage: Stage, milliseconds: int, name: str, others: Sequence[Peer]) -> Found:
    line = stage.line(milliseconds)
    tree = stage.tree(name)
    path = Path(tree.path)
    files = set(files_below(path))
    what = pull_of(name, line.name)
    say(f"{what}: storing it in every way")
    _store(stage, line, name, others)
    targets = stage.folder(f"targets {what}")

    def contestant(
        who: str,
        command: Callable[[Path], Sequence[str]],
        *,
        below: Callable[[Path], Path] = lambda to: to,
        rounds: int | None = None,
    ) -> Contestant:
        # A new directory each round, and nothing deleted meanwhile: for minutes after many files
        # are deleted, ext4 makes new ones several times slower.
        def at(number: int) -> Path:
            return targets / f"{number} {who}"

        return Contestant(
            name=who,
            env=line.env,
            command=lambda number: command(at(number)),
            check=lambda number, _output: same(files, set(files_below(below(at(number)))), who),
            rounds=rounds,
        )

    def our(way: str) -> Contestant:
        return contestant(
            way,
            lambda to: ours.pull(line, way, tree, stage.platform(name), to),
            below=lambda to: ours.place(tree, to),
        )

    def their(peer: Peer) -> Contestant:
        where = line.prefix(f"{name}-{peer.stored}")
        return contestant(peer.name, lambda to: peer.get(where, to), rounds=peer.rounds)

    say(what)
    taking = [our(way) for way in line.options]
    taking += [their(peer) for peer in others]
    if not milliseconds:
        taking.append(contestant(CP, lambda to: ("cp", "-r", str(path), str(to))))
    found = Found(runs={what: alternate(taking, stage.rounds)}, left_out=_left_out())
    shutil.rmtree(targets)
    return found


def _store(stage: Stage, line: Line, name: str, others: Sequence[Peer]) -> None:
    tree = stage.tree(name)
    for way in line.options:
        ours.forget(tree)
        timed(ours.push(line, way, tree, stage.root(name)), line.env)
    # An object a file is the same whoever puts it: the quickest does.
    kinds = {peer.stored: peer for peer in sorted(others, key=lambda peer: peer.name == S5CMD)}
    for kind, peer in kinds.items():
        timed(peer.put(line.prefix(f"{name}-{kind}"), Path(tree.path)), line.env)


def publish(stage: Stage) -> Found:
    """The first time, and again unchanged."""
    line = stage.line()
    tree, root = stage.tree(), stage.root()
    say("first publish")
    first = alternate(
        [
            *(_first(line, way, tree, root) for way in line.options),
            *(
                _first_of_peer(line, peer, tree)
                for peer in taking_part()
                if peer.name in (AWS, S5CMD, TAR)
            ),
        ],
        stage.rounds,
    )
    say("publish again, unchanged")
    for way in line.options:
        timed(ours.push(line, way, tree, root), line.env)
    walk = (sys.executable, "-c", SCANDIR, tree.path)
    again = alternate(
        [
            *(_again(line, way, tree, root) for way in line.options),
            Contestant(name=WALK, env=line.env, command=lambda _round: walk),
        ],
        stage.rounds,
    )
    return Found(runs={FIRST: first, AGAIN: again, STARTS: _starts(stage)}, left_out=_left_out())


FIRST, AGAIN, STARTS = "first publish", "publish again, unchanged", "start of a process"


def _first(line: Line, way: str, tree: FoundTree, root: Path) -> Contestant:
    at = list(line.options).index(way)
    return Contestant(
        name=way,
        env=line.env,
        # A namespace where nothing was ever stored.
        command=lambda number: ours.push(line, way, tree, root, f"first-{number}-{at}"),
        before=lambda: ours.forget(tree),
        check=lambda _round, output: same(True, ours.uploaded(output) > 0, "uploaded"),
    )


def _first_of_peer(line: Line, peer: Peer, tree: FoundTree) -> Contestant:
    def where(number: int) -> str:
        return line.prefix(f"first-{number}-{peer.name}".replace(" ", "-"))

    return Contestant(
        name=peer.name,
        env=line.env,
        command=lambda number: peer.put(where(number), Path(tree.path)),
        rounds=peer.rounds,
    )


def _again(line: Line, way: str, tree: FoundTree, root: Path) -> Contestant:
    return Contestant(
        name=way,
        env=line.env,
        command=lambda _round: ours.push(line, way, tree, root),
        check=lambda _round, output: same(0, ours.uploaded(output), "uploaded bytes"),
    )


def _starts(stage: Stage) -> dict[str, list[Sample]]:
    """What a process costs before it does anything."""
    commands: dict[str, Sequence[str]] = {
        "python -c pass": (sys.executable, "-c", "pass"),
        "aotcache --version": (*ours.AOTCACHE, "--version"),
        "python -c 'import obstore'": (sys.executable, "-c", "import obstore"),
    }
    env = stage.line().env
    return alternate(
        [
            Contestant(name=name, env=env, command=partial(_same_words, words))
            for name, words in commands.items()
        ],
        stage.rounds,
    )


def _same_words(words: Sequence[str], _round: int) -> Sequence[str]:
    return words


def _left_out() -> dict[str, str]:
    return {peer.name: peer.lacks for peer in peers() if peer.lacks}
