"""Build what changed, push what is missing, tell what is done and how long it took."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dev.images import registry, standin
from dev.images.buildah import Buildah, require_tools
from dev.images.recipes import RECIPES, STANDIN, Recipe


def build_all(home: Path) -> dict[str, str]:
    """References of the shipped images (pause, operator, trainer, serving), all in the local registry.

    Content decides: an image whose inputs did not change is neither built nor pushed again. ImageError
    says what is missing or where the log is.
    """
    require_tools()
    home.mkdir(parents=True, exist_ok=True)
    with _alone(home):
        registry.start(home)
        refs = references()
        for recipe in RECIPES:
            if recipe.shipped and not registry.has(refs[recipe.name]):
                _provide(recipe, refs, home)
    return {recipe.name: refs[recipe.name] for recipe in RECIPES if recipe.shipped}


def references() -> dict[str, str]:
    """The reference of every image as its inputs stand now; bases that are not shipped included."""
    refs = {STANDIN: standin.ref()}
    for recipe in RECIPES:
        prefix = registry.PREFIX if recipe.shipped else "localhost/finetune-operator"
        refs[recipe.name] = f"{prefix}/{recipe.name}:{recipe.tag(refs[recipe.base])}"
    return refs


def _provide(recipe: Recipe, refs: dict[str, str], home: Path) -> None:
    buildah = Buildah(home)
    _ensure(recipe, refs, buildah)
    _timed(f"pushing {recipe.name}", lambda: buildah.push(refs[recipe.name]))


def _ensure(recipe: Recipe, refs: dict[str, str], buildah: Buildah) -> None:
    """Have the image in the local storage, its bases first."""
    if buildah.has(refs[recipe.name]):
        return
    base = next((other for other in RECIPES if other.name == recipe.base), None)
    if base is not None:
        _ensure(base, refs, buildah)
    elif not buildah.has(refs[STANDIN]):
        _timed("building the base (Debian with Python 3.11)", lambda: standin.make(buildah.home, buildah))
    args = {"BASE": refs[recipe.base], **dict(recipe.args)}
    _timed(
        f"building {recipe.name} ({recipe.about})",
        lambda: buildah.build(recipe.context, refs[recipe.name], args, recipe.target),
    )


def _timed(what: str, work: Callable[[], None]) -> None:
    print(f"images: {what} ...", flush=True)
    begun = time.monotonic()
    work()
    print(f"images: {what}: {time.monotonic() - begun:.0f} s", flush=True)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One build at a time for one home: two would race for the storage."""
    with (home / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
