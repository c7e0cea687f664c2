"""Of large packages only what a command uses: timm without its hundred networks, torch without its compiler.

`import timm` takes twice as long as `import torch`: it imports every network and loader that it has, the hub's client,
and torchvision, which imports torch's compiler to ask it one question; nibabel imports pydicom. A command makes one
network, fetches nothing as a rule, and compiles nothing unless it is told to. Whatever else is asked for is imported
then, in the same modules. What `import torch` itself imports stays: its parts rely on each other, in processes that
read scans too.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
_HUB = "timm.models._hub"
_FUNCTIONS = {
    "torchvision": f"{_COMPILER}.utils",
    "timm.models._builder": _HUB,
    "timm.models._factory": _HUB,
    "timm.layers._fx": "torchvision.models.feature_extraction",
    "nibabel.nifti1": "pydicom",
}
"""Modules, and another from which each imports functions that are hardly ever called."""
_beginning = RLock()
_GARBAGE = 50_000
"""New objects after which garbage is looked for, a fifth of the time of an import with Python's own 700 to 2,000."""


def install() -> None:
    """Import so from now on; what was imported before stays as it is."""
    gc.set_threshold(_GARBAGE, *gc.get_threshold()[1:])
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _of(module: str, name: str) -> Any:
    """A name of a small module of a package that waits."""
    return getattr(import_module(module), name, None)


def _nothing(name: str) -> None:
    """Of a package that has no name to give before it begins."""


_WAITING: dict[str, Callable[[str], Any]] = {
    "timm": partial(_of, "timm.version"),
    "timm.models": _nothing,
    "timm.data": partial(_of, "timm.data.constants"),
    "torchvision": _nothing,
    "torchvision.ops": _nothing,
    _COMPILER: lambda name: _not_compiled if name == "disable" else None,
}
"""Packages whose beginning waits, and what gives some of their names before."""
_BEFORE = {
    _COMPILER: _COMPILER,
    **{f"torchvision.{name}": "torchvision" for name in ("datasets", "io", "models", "transforms")},
}
"""Packages, and what has to have begun before a module of theirs is imported."""


def _not_compiled(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
    """`torch._dynamo.disable` where there is no compiler as yet: once there is, it is called."""
    compiled: list[Callable[..., Any]] = []

    @wraps(function)
    def run(*given: Any, **named: Any) -> Any:
        compiler = sys.modules[_COMPILER]
        if not compiled and not isinstance(compiler, _Waiting):
            compiled.append(compiler.disable(function, *args, **kwargs))
        return (compiled[0] if compiled else function)(*given, **named)

    return run


class _Waiting(ModuleType):
    """A package whose `__init__` runs when a name is asked for that is not there; its modules can be had before."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__version__", "__all__"):
            raise AttributeError(name)  # asked by the import system and by pickle, of every module
        value = _WAITING[self.__name__](name)
        if value is not None:
            return value
        begin(self)
        return getattr(self, name)


def begin(module: ModuleType) -> None:
    """Run what a package waits with; one that does not wait is left as it is."""
    with _beginning:
        if not isinstance(module, _Waiting):  # another thread was first
            return
        module.__class__ = ModuleType  # type: ignore[assignment]
        try:
            with _functions_of(_FUNCTIONS.get(module.__name__, "")):
                module.__spec__.loader.exec_module(module)  # type: ignore[union-attr]
        except BaseException:
            module.__class__ = _Waiting
            raise


class _Finder(MetaPathFinder):
    """Finds modules as Python does, and has some of them begin otherwise."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name not in _WAITING and name not in sys.modules and _begun_for(name) and name in sys.modules:
            return _There.spec(sys.modules[name])
        if name not in _WAITING and name not in _FUNCTIONS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Beginning(spec.loader)
        return spec


def _begun_for(name: str) -> bool:
    """Begin the package that a module cannot do without; returns whether one had to."""
    for package, needed in _BEFORE.items():
        if name == package or name.startswith(f"{package}."):
            waits = sys.modules.get(needed)
            if isinstance(waits, _Waiting):
                begin(waits)
                return True
    return False


class _There(Loader):
    """Gives a module that was imported while another began, rather than a second one."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.own = module, module.__spec__

    @classmethod
    def spec(cls, module: ModuleType) -> ModuleSpec:
        """By which the module is found; Python takes that of the module itself, so it is there too until then."""
        module.__spec__ = ModuleSpec(module.__name__, cls(module))
        return module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.own
        module.__loader__ = getattr(self.own, "loader", None)


class _Beginning(Loader):
    """Begins a module in its own way, and hands it back to its loader."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        if module.__name__ in _WAITING:
            module.__class__ = _Waiting
            return
        with _functions_of(_FUNCTIONS[module.__name__]):
            self.loader.exec_module(module)


@contextmanager
def _functions_of(name: str) -> Iterator[None]:
    """While the block imports, have a module give functions that import it when they are called."""
    if not name or name in sys.modules:
        yield
        return
    sys.modules[name] = stand_in = _Functions(name)
    try:
        yield
    finally:
        stand_in.imported = True
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]


class _Functions(ModuleType):
    """Stands for a module while another imports functions of it; whoever kept it then has the module's own names."""

    imported = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self.imported:
            return getattr(import_module(self.__name__), name)

        def function(*args: Any, **kwargs: Any) -> Any:
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
            return getattr(import_module(self.__name__), name)(*args, **kwargs)

        return function
