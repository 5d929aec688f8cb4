"""How an app is loaded from a file or a folder."""

import hashlib
import importlib.util
import os
import sys
from contextlib import ExitStack
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from hansa.app.app import App
from hansa.app.imports import forget_changed
from hansa.app.module import MODULE
from hansa.errors import AppError
from hansa.training import command
from hansa.wire import codec

__all__ = ["find_app", "load_app"]


def find_app(path: str | Path) -> Path:
    """The file that makes an app of this path: an app.py, a hansa.toml, or a folder with one of them."""
    given = Path(path)
    candidates = [given / "hansa.toml", given / "app.py"] if given.is_dir() else [given]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    if given.is_dir():
        raise AppError(f"the folder {given} has neither an app.py nor a hansa.toml; add one, or name the file")
    raise AppError(f"there is no app at {given}: give an app.py, a hansa.toml, or a folder with one of them")


def load_app(path: str | Path) -> App:
    """The `App` of a file or folder; raises `AppError` that says what is missing. The app's own errors pass through."""
    file = find_app(path)
    if file.suffix == ".toml":
        app = App(trainer=command.from_toml(file, save=codec.save, load=codec.load))
        app.path = app.source = file.parent
        return app
    app = _loaded(file)
    app.path, app.source = file, Path(path).resolve()
    return app


def _loaded(file: Path) -> App:
    name = f"{MODULE}{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file, loader=_FromSource(name, str(file)))
    if file.suffix != ".py" or spec is None or spec.loader is None:
        raise AppError(f"{file} cannot be loaded: an app is a Python file (app.py) or a hansa.toml")
    module = importlib.util.module_from_spec(spec)
    _prefer(file.parent)
    forget_changed(file)
    with ExitStack() as unless_it_loads:
        unless_it_loads.callback(sys.modules.pop, name, None)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        unless_it_loads.pop_all()
    return _app_of(module, file)


def _app_of(module: ModuleType, file: Path) -> App:
    apps = {name: value for name, value in vars(module).items() if isinstance(value, App)}
    if "app" in apps:
        return apps["app"]
    if len(set(map(id, apps.values()))) == 1:
        return next(iter(apps.values()))
    if not apps:
        raise AppError(f"{file} defines no app; add app = hansa.App(), and decorate your functions with it")
    raise AppError(f"{file} defines {len(apps)} apps, {', '.join(apps)}; call the one to run `app`")


class _FromSource(SourceFileLoader):
    """Never from bytecode: that is told from the source by its size and its second, and a program writes faster."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _prefer(folder: Path) -> None:
    """Let an app import what lies beside it, also where an app of another folder has a module of the same name."""
    path, loaded = str(folder), list(sys.modules.items())
    others = {_folder(module) for name, module in loaded if name.startswith(MODULE)} - {path, None}
    if others:  # thousands of modules may be loaded: those inside packages are not looked at
        whole = [(name, module) for name, module in loaded if "." not in name and name != "__main__"]
        taken = {name for name, module in whole if _folder(module) in others and _is_in(folder, name)}
        for name in [name for name, _ in loaded if taken and name.partition(".")[0] in taken]:
            del sys.modules[name]
    if path in sys.path:
        sys.path.remove(path)
    sys.path.insert(0, path)


def _folder(module: object) -> str | None:
    """The folder from which `import` took a module that is not inside a package."""
    spec = vars(module).get("__spec__") if isinstance(module, ModuleType) else None  # getattr may answer anything
    if not isinstance(spec, ModuleSpec):
        return None
    places = list(spec.submodule_search_locations or ())
    place = places[0] if places else spec.origin if spec.has_location else None
    return os.path.dirname(place) if place else None  # noqa: PTH120 - a path for each of thousands takes long


def _is_in(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").is_file() or (folder / name).is_dir()
