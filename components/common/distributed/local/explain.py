"""Why a training on ranks failed, in one line: the cause, not its echoes."""

import re
import signal
from collections.abc import Sequence
from pathlib import Path

from kfp_foundry.components.common.distributed.local.child import Child
from kfp_foundry.components.common.distributed.ranks import failure as failures
from kfp_foundry.components.common.errors import FoundryError, PlatformError

WHERE = "training"
STACK_FRAMES = 4
RESUME = "run again: it goes on from the last checkpoint"

_TORCHRUN = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)")
_FRAME = re.compile(r'^  File "([^"]+)", line (\d+) in (.+)$')


def failure(children: Sequence[Child], folder: Path, seconds: float) -> FoundryError:
    """The error of a training that has no result.

    Args:
        children: What was started, all ended by now.
        folder: Where ranks left their errors and stacks.
        seconds: The time limit, if it is what ended them; else 0.
    """
    said = failures.load(folder)
    stacks = {file.stem.replace("-", " "): _stack(file) for file in sorted(folder.glob("rank-*.stack"))}
    stacks = {name: stack for name, stack in stacks.items() if stack}
    first = failures.cause(said)
    if first is not None:
        return first.error(folder / f"rank-{first.rank}.log")
    if seconds:
        where = "; ".join(f"{name} is at {stack}" for name, stack in stacks.items()) or "no rank says where it is"
        return FoundryError(f"not finished after {seconds:.0f} s; {where}", where=WHERE, remedy="give it more time, or see why it waits there")
    if any(child.lost and not child.asked for child in children):
        return PlatformError("the process that starts ranks was ended, perhaps for lack of memory", where=WHERE, remedy=RESUME)
    killed = _killed(children)
    if killed:
        return killed
    waited = next((one for one in said if one.peer == "late"), None)
    silent = {name: stack for name, stack in stacks.items() if name not in {f"rank {one.rank}" for one in said}}
    if waited is not None and silent:
        where = "; ".join(f"{name} is at {stack}" for name, stack in silent.items())
        return FoundryError(
            f"{', '.join(silent)} hangs, rank {waited.rank} waited for it in vain; {where}", where=WHERE, remedy="see why it waits there"
        )
    if said:
        return said[0].error(folder / f"rank-{said[0].rank}.log")
    return _silent(children)


def _killed(children: Sequence[Child]) -> FoundryError | None:
    """The first rank that a signal ended which did not come from here."""
    ends = [(child.name, child.code) for child in children if child.code is not None and child.code < 0 and not child.asked]
    ends += [(f"rank {found[2]}", int(found[1])) for child in children for line in child.tail if (found := _TORCHRUN.search(line))]
    for name, code in ends:
        if code < 0:
            word = signal.Signals(-code).name
            perhaps = ", perhaps for lack of memory" if code == -signal.SIGKILL else ""
            return PlatformError(f"{name} was ended by {word}{perhaps}", where=WHERE, remedy=RESUME)
    return None


def _silent(children: Sequence[Child]) -> FoundryError:
    """A rank that said nothing we could read, as one that could not even import its code."""
    child = next((child for child in children if child.code), children[0])
    last = next((line.strip() for line in reversed(child.tail) if line.strip()), "it wrote nothing")
    what = f"ended with exit code {child.code}: {last}" if child.code else "ended without a result"
    return FoundryError(f"{child.name} {what}", where=WHERE, remedy=f"read {child.file}")


def _stack(file: Path) -> str:
    """The innermost frames of the thread that got the signal, from what faulthandler wrote."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith("Current thread")), None)
    if start is None:
        return ""
    frames = []
    for line in lines[start + 1 :]:
        found = _FRAME.match(line)
        if found is None:
            break
        frames.append((found[1], f"{Path(found[1]).name}:{found[2]} in {found[3]}"))
    own = [text for path, text in frames if "site-packages" not in path and not path.startswith("<")]
    return ", called from ".join((own or [text for _, text in frames])[:STACK_FRAMES])
