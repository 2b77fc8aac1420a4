"""The compiled parts; all else is in pyproject.toml.

What is written in Cython (`*.pyx`) becomes an extension each. The modules in `TYPED` are ordinary
Python, which mypyc compiles as it is: into one library, and for each a small extension that
imports it. An extension is found before the module of that name, so those are all there or none.
What cannot be compiled is left out, and Python runs the rest.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

#: What small calls run through. See "Compiled modules" in docs/ARCHITECTURE.md.
TYPED = [
    Path("pynode", path)
    for path in (
        "bridge/call.py",
        "bridge/requests.py",
        "bridge/underway.py",
        "dist/connection.py",
        "dist/decoding.py",
        "dist/engine.py",
        "dist/loopback.py",
        "dist/outbox.py",
        "dist/task.py",
        "gen.py",
        "modules.py",
        "objects/guard.py",
        "objects/registry.py",
        "objects/session.py",
        "objects/unwind.py",
        "protocol/channel.py",
        "signals.py",
    )
]
#: What is before "__mypyc" in the name of the library with all of them.
GROUP = "pynode._typed"
#: Whose types are checked is mypy's other run; here it shall only read them.
OPTIONS = [
    "--cache-dir=build/mypy",
    "--config-file=",
    "--follow-imports=silent",
    "--ignore-missing-imports",
]
CYTHON = sorted(Path("pynode").rglob("*.pyx"))
#: What was compiled in place, in the form of sha256sum: the tests refuse to run anything older.
RECORD = Path("build/compiled.sha256")


def translate() -> dict[str, Extension]:
    """Translate the typed modules to C; return nothing if that is impossible."""
    try:
        from mypyc.build import mypycify  # noqa: PLC0415

        # -O2 and -O3 make calls no faster than -O1, and take half as long again to compile.
        extensions = mypycify(
            [*OPTIONS, *map(str, TYPED)], opt_level="1", debug_level="0", group_name=GROUP
        )
    except (Exception, SystemExit) as error:  # noqa: BLE001
        # mypyc exits where it finds errors of types; whatever it is, Python can run the modules.
        print(f"warning: the typed modules are not compiled: {error!r}", file=sys.stderr)  # noqa: T201
        return {}
    for extension in extensions:
        # A compiler that warns of more than mypyc's authors know is good enough.
        extension.extra_compile_args = [
            option for option in extension.extra_compile_args if option != "-Werror"
        ]
    return {extension.name: extension for extension in extensions}


class BuildExtensions(build_ext):
    """Builds what can be built, and leaves nothing behind of what can no longer be."""

    def run(self) -> None:
        """Build, in place or not."""
        sums = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in [*TYPED, *CYTHON]}
        # Only now, and not whenever the project is asked for its name, because it takes seconds.
        translated = translate()
        for extension in typed:
            if extension.name in translated:
                vars(extension).update(vars(translated[extension.name]))
            else:
                self.extensions.remove(extension)
        for extension in self.extensions:
            extension.optional = True
        if self.inplace:
            RECORD.unlink(missing_ok=True)
            self._remove(Path("pynode"), keep=())
        super().run()
        if self.inplace:
            built = [
                f"{digest}  {path}\n"
                for path, digest in sums.items()
                if Path(self.build_lib, self.get_ext_filename(module(path))).exists()
            ]
            RECORD.write_text("".join(built))

    def build_extensions(self) -> None:
        """Build all extensions, the typed ones all or none."""
        super().build_extensions()
        files = self._files(self.extensions)
        if not all(path.exists() for path in self._files(typed)):
            files -= self._files(typed)
        self._remove(Path(self.build_lib), keep=files)

    def build_extension(self, extension: Extension) -> None:
        """Build one extension; what was built of it earlier must not stand for it."""
        try:
            super().build_extension(extension)
        except BaseException:
            self._files([extension]).pop().unlink(missing_ok=True)
            raise

    def _files(self, extensions: Iterable[Extension]) -> set[Path]:
        return {Path(self.build_lib, self.get_ext_filename(one.name)) for one in extensions}

    def _remove(self, folder: Path, *, keep: Collection[Path]) -> None:
        """Remove the extensions for this Python in `folder` but those to `keep`."""
        for path in folder.rglob("*" + self.get_ext_filename("")):
            if path not in keep:
                path.unlink()


def module(path: Path) -> str:
    """Return the name of the module in a file."""
    return ".".join(path.with_suffix("").parts)


typed = [Extension(module(path), [str(path)]) for path in TYPED]
typed.append(Extension(GROUP + "__mypyc", []))
cython = [Extension(module(path), [str(path)]) for path in CYTHON]
setup(
    cmdclass={"build_ext": BuildExtensions},
    ext_modules=cythonize(cython, build_dir="build") + typed,
)
